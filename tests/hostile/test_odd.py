"""What is none of the others: a clock that jumps, latents that are not finite, a prompt that
kills, little memory, and inputs, options and models that changed under a run."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.contracts import generation_cases
from tests.contracts.cases import ROOT
from tests.hostile import children
from tests.hostile.faults import Clock, LittleMemory, NotFinite, PoisonPrompt
from tests.hostile.protocols import PROTOCOLS, check_ending
from tests.hostile.tally import Tally
from tests.hostile.world import World, faults_of, summary

pytestmark = pytest.mark.slow
_DAY_S = 86_400.0


def test_a_clock_that_jumps_changes_nothing(world: World, tally: Callable[[str], Tally]) -> None:
    tallied = tally("the clock jumps")
    jumps = [
        (name, at, jump_s)
        for name in ("curate", "takedown", "clean")
        for at, jump_s in ((2, _DAY_S), (6, -_DAY_S), (12, 400 * _DAY_S))
    ]
    for name, at, jump_s in tallied.some(jumps):
        protocol = PROTOCOLS[name]
        with tallied.case(f"{name}, {jump_s:+.0f} s at reading {at}"):
            case, unharmed = protocol.begin(world), protocol.begin(world)
            check_ending(protocol.run(world, unharmed), 0)
            check_ending(protocol.run(world, case, fault=Clock(at, jump_s)), 0)
            protocol.check(case, unharmed)
    tallied.close()


def test_latents_that_are_not_finite_cost_their_row(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied = tally("latents are not finite")
    kept = summary(world.curated)["encode"]["kept"]
    for at in tallied.some(range(2, kept + 1), few=1):  # the first is the probe of the spec
        with tallied.case(f"image {at}"):
            case = PROTOCOLS["curate"].begin(world)
            check_ending(PROTOCOLS["curate"].run(world, case, fault=NotFinite(at)), 0)
            encode = summary(case / "run")["encode"]
            assert encode["dropped"] == {"latents_not_finite": 1}, encode
            assert encode["kept"] == kept - 1
            assert faults_of(case / "run") == []
    tallied.close()


def test_a_prompt_that_kills_costs_its_row(world: World, tally: Callable[[str], Tally]) -> None:
    tallied = tally("a poison prompt")
    images = generation_cases.image_files(world.generated)
    for number in tallied.some(range(6)):
        with tallied.case(f"prompt {number}"):
            case = PROTOCOLS["generate"].begin(world)
            fault = PoisonPrompt(f"number {number} ")
            check_ending(PROTOCOLS["generate"].run(world, case, fault=fault), 0)
            left = generation_cases.image_files(case / "run")
            assert len(left) == len(images) - 1
            assert all(images[key] == content for key, content in left.items())
            assert summary(case / "run")["generate"]["dropped"] == {"row_failed": 1}
            assert faults_of(case / "run") == []
    tallied.close()


def test_too_little_memory_is_the_environment(world: World, tally: Callable[[str], Tally]) -> None:
    tallied = tally("little memory")
    amounts = [(name, mib) for name in ("curate", "generate", "train") for mib in _AMOUNTS_MIB]
    for name, mib in tallied.some(amounts, few=1):
        protocol = PROTOCOLS[name]
        with tallied.case(f"{name}, {mib} MiB"):
            case, unharmed = protocol.begin(world), getattr(world, f"{name}d".replace("nd", "ned"))
            ended = protocol.run(world, case, fault=LittleMemory(mib))
            if _ENDED_BY_GLIBC not in ended.err:
                check_ending(ended, 0, 75)
            check_ending(protocol.run(world, case), 0)
            assert protocol.content(case / "run") == protocol.content(unharmed)
    tallied.close()


_AMOUNTS_MIB = (64, 192, 320, 448, 640)
_ENDED_BY_GLIBC = "cannot allocate memory for thread-local data: ABORT"
"""Nothing in the process can tell of it any more; the same command goes on all the same."""


def _everything(run: Path) -> dict[str, str]:
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file()
    }


def _changed_list(world: World, case: Path) -> list[str]:
    rows = pq.read_table(world.list_path)
    texts = ["another text", *rows["TEXT"].to_pylist()[1:]]
    pq.write_table(pa.table({"URL": rows["URL"], "TEXT": texts}), case / "list.parquet")
    return world.curate(case / "run", path=case / "list.parquet")


def _shorter_list(world: World, case: Path) -> list[str]:
    pq.write_table(pq.read_table(world.list_path).slice(0, 5), case / "list.parquet")
    return world.curate(case / "run", "--grow", path=case / "list.parquet")


def _other_model(world: World, case: Path) -> list[str]:
    model = shutil.copytree(ROOT / "sd_core/presets/tiny/clip", case / "clip")
    weights = model / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    return world.curate(case / "run", score__clip__name=model)


def _option(*more: str, **options: Any) -> Callable[[World, Path], list[str]]:
    return lambda world, case: world.curate(case / "run", *more, **options)


_DRIFT: dict[str, Callable[[World, Path], list[str]]] = {
    "another text in the list": _changed_list,
    "a list that lost rows": _shorter_list,
    "another model under a new name": _other_model,
    "another size": _option(image__size=96),
    "another size, growing": _option("--grow", image__size=96),
    "another size, fetching again": _option("--retry", image__size=96),
    "another shard size": _option(plan__rows_per_shard=5),
    "another shard size, growing": _option("--grow", plan__rows_per_shard=5),
    "another rule": _option(select__rules="[{column: aesthetic_v1, min: 1}]"),
    "another rule, growing": _option("--grow", select__rules="[{column: aesthetic_v1, min: 1}]"),
    "a rule of no column": _option("--steps", "select", select__rules="[{column: x, min: 1}]"),
    "no encoding any more": _option(encode__download_shards_per_file=1),
    "an unknown step": _option("--steps", "nothing"),
    "growing and fetching again": _option("--grow", "--retry"),
    "a list that is not there": _option(path="/nowhere/list.parquet"),
    "a list that is not there, growing": _option("--grow", path="/nowhere/list.parquet"),
    "a model that is not there": _option(
        "--steps", "select,encode", encode__autoencoder__model="/x"
    ),
}


def test_what_changed_under_a_run_is_refused_and_changes_nothing(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied = tally("drift of input, options or model")
    for name in tallied.some(list(_DRIFT)):
        with tallied.case(name):
            case = PROTOCOLS["re-cut"].begin(world)
            before = _everything(case / "run")
            ended = children.run("curate", _DRIFT[name](world, case), folder=case)
            check_ending(ended, 2)
            after = _everything(case / "run")
            assert after == before, sorted(
                path for path in {*before, *after} if before.get(path) != after.get(path)
            )
    tallied.close()
