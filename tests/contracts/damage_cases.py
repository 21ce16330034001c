"""Damage to every kind of file of a run or training, in place and put back."""

import io
import json
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs import verify
from jobs.exit_codes import ExitCode
from sd_core.sealed import unseal

NOT_HELD = ("README.md", "rates.json", "status.json")
"""Files that people may change, or that nothing goes by."""


def kind_of(path: str) -> str:
    """What a file is, whatever shard, revision, step or machine it is of."""
    path = re.sub(r"-[0-9a-f]{8,16}(?=\.)", "", path)
    path = re.sub(r"/[0-9a-f]{16}/", "/*/", path)
    path = re.sub(r"(events\.out|processor-).*", r"\1*", path)
    return re.sub(r"\d{6,8}", "*", path)


def files_by_kind(folder: Path) -> dict[str, list[Path]]:
    """Every file that is held against something, by its kind, in order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size and path.name not in NOT_HELD:
            found.setdefault(kind_of(path.relative_to(folder).as_posix()), []).append(path)
    return found


@contextmanager
def damaged(path: Path, content: bytes | None) -> Iterator[None]:
    """The file with another content, or without it, put back at the end."""
    with TemporaryDirectory() as folder:
        aside = Path(folder) / path.name
        shutil.move(path, aside)  # so that the links of one file are links again
        if content is not None:
            path.write_bytes(content)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            shutil.move(aside, path)


def flip_one(path: Path, chosen: random.Random) -> bytes:
    """The file's content with one bit flipped."""
    content = bytearray(path.read_bytes())
    content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
    return bytes(content)


def undetected(folder: Path, chosen: random.Random, *, flips: int) -> list[str]:
    """Of each kind of file, flips of one bit that `verify --deep` does not find."""
    missed = []
    for kind, paths in files_by_kind(folder).items():
        for path in chosen.choices(paths, k=flips):
            with damaged(path, flip_one(path, chosen)):
                if not is_found(folder):
                    missed.append(f"{kind}: {path.relative_to(folder)}")
    return missed


def is_found(folder: Path) -> bool:
    """Whether the command finds a fault."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return verify.main([str(folder), "--deep"]) == ExitCode.FAILED


def as_of_before(folder: Path) -> None:
    """Take the digests out of every small file of a run or training, as if made before them."""
    for path in folder.rglob("*.json*"):
        if "model" not in path.parts and "step-" not in path.parent.name:
            is_lines = path.suffix == ".jsonl"
            texts = path.read_bytes().splitlines(keepends=True) if is_lines else [path.read_bytes()]
            trees = [_without(unseal(text)) for text in texts]
            path.write_text("".join(f"{json.dumps(tree)}\n" for tree in trees))


def _without(tree: Any) -> Any:
    for step in tree.get("steps", {}).values() if isinstance(tree.get("steps"), dict) else ():
        if isinstance(step, dict):
            step.pop("digests", None)
    if "identity" in tree:  # a cache's spec
        tree.pop("files", None)
    if "checkpoints" in tree:
        tree.pop("published_step", None)
    for name in ("shards_sha256", "records"):
        tree.pop(name, None)
    return tree
