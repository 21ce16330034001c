"""Damage to every kind of file of a curation, a generation and a training: verify finds it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.damage_cases import damaged, files_by_kind, flip_one, is_found
from tests.hostile.tally import Tally
from tests.hostile.world import World

NUM_FLIPS = 4


@pytest.mark.slow
@pytest.mark.parametrize("output", ["curated", "generated", "trained"])
def test_damage_to_any_kind_of_file_is_found(
    world: World, tally: Callable[[str], Tally], tmp_path: Path, output: str
) -> None:
    folder = Path(shutil.copytree(getattr(world, output), tmp_path / output))
    tallied = tally(f"damage to a file: {output}")
    chosen = tallied.random
    assert not is_found(folder)
    changes = ["cut", "empty", "delete", *["flip"] * NUM_FLIPS]
    cases = [(kind, change) for kind in files_by_kind(folder) for change in changes]
    for kind, change in tallied.some(cases):
        path = chosen.choice(files_by_kind(folder)[kind])
        content = {
            "cut": path.read_bytes()[: path.stat().st_size // 2],
            "empty": b"",
            "delete": None,
            "flip": flip_one(path, chosen),
        }[change]
        with tallied.case(f"{change} {path.relative_to(folder)}"), damaged(path, content):
            assert is_found(folder)
    tallied.close()
