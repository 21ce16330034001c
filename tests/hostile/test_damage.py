"""Damage to every kind of file of a curation, a generation and a training: verify finds it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.contracts.damage_cases import damaged, files_by_kind, flip_one, is_found
from tests.hostile.disks import copy_linked
from tests.hostile.tally import Tally
from tests.hostile.world import World

NUM_FLIPS = 4


@pytest.mark.slow
@pytest.mark.parametrize("output", ["curated", "generated", "trained"])
def test_damage_to_any_kind_of_file_is_found(
    world: World, tally: Callable[[str], Tally], tmp_path: Path, output: str
) -> None:
    folder = copy_linked(getattr(world, output), tmp_path / output)
    tallied = tally(f"damage to a file: {output}")
    chosen = tallied.random
    assert not is_found(folder)
    changes = ["cut", "empty", "delete", "flip in every link", *["flip"] * NUM_FLIPS]
    cases = [(kind, change) for kind in files_by_kind(folder) for change in changes]
    for kind, change in tallied.some(cases):
        path = chosen.choice(files_by_kind(folder)[kind])
        damage = rewritten if change == "flip in every link" else damaged
        content = {
            "cut": path.read_bytes()[: path.stat().st_size // 2],
            "empty": b"",
            "delete": None,
        }.get(change, flip_one(path, chosen))
        with tallied.case(f"{change} {path.relative_to(folder)}"), damage(path, content):
            assert is_found(folder)
    tallied.close()


@contextmanager
def rewritten(path: Path, content: bytes) -> Iterator[None]:
    """The file with another content under each of its names, put back at the end."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
