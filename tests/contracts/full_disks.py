"""Run in a mount namespace of its own: jobs on a real disk that is full, or mounted read-only."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from jobs import curate, generate
from tests.contracts import cases, job_cases

Main = Callable[[list[str] | None], int]


def mount(folder: Path, *options: str) -> None:
    """A small disk in memory; `remount` changes it."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder], check=True)


def call(main: Main, arguments: list[Any]) -> tuple[int, str]:
    """The exit code and what was told at the end."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as told:
        code = main([str(argument) for argument in arguments])
    return code, told.getvalue()


def harm(main: Main, arguments: Callable[..., list[Any]], disk: Path, output: Path) -> Any:
    """What came of a job on the disk, of the same command when there is room, and its files."""
    code, told = call(main, arguments(output))
    given_up = [
        str(path)
        for path in output.glob("manifests/*/*/0*.json")
        if json.loads(path.read_bytes())["quarantined"]
    ]
    mount(disk, "remount", "rw", "size=1g")
    again, _ = call(main, arguments(output))
    files = cases.data_files(output)
    subprocess.run(["umount", disk], check=True)
    return {"code": code, "told": told, "given_up": given_up, "again": again, "files": files}


def main() -> None:
    """The folder has the lists; each outcome is printed on a line."""
    folder = Path(sys.argv[1])
    encode = "{autoencoder: {model: 'preset:tiny/autoencoder'}, "
    encode += "text_encoder: {clip: {name: 'preset:tiny/clip'}}}"
    jobs: dict[str, tuple[Main, Callable[[Path], list[Any]]]] = {
        "curate": (
            curate.main,
            lambda output: job_cases.curate(
                folder / "list.parquet", output, plan__rows_per_shard=2, encode=encode
            ),
        ),
        "generate": (
            generate.main,
            lambda output: job_cases.generate(
                folder / "prompts.parquet", output, plan__images_per_shard=1
            ),
        ),
    }
    disk = folder / "disk"
    for name, (job, arguments) in jobs.items():
        unharmed = folder / name
        code, told = call(job, arguments(unharmed))
        assert code == 0, told
        num_kb = sum(p.stat().st_size for p in unharmed.rglob("*") if p.is_file()) // 1024
        tried = [("output", f"size={num_kb * 6 // 10}k")]
        tried += [("spool", "size=12k"), ("output", "ro")] if name == "curate" else []
        for where, option in tried:
            mount(disk, option)
            is_spool = where == "spool"
            tempfile.tempdir = str(disk) if is_spool else None
            output = folder / f"{name}-spooled" if is_spool else disk / "run"
            found = harm(job, arguments, disk, output)
            tempfile.tempdir = None
            same = found.pop("files") == cases.data_files(unharmed)
            print(json.dumps({"job": name, "disk": f"{where} {option}", "same": same, **found}))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
