"""Lists, archives, models and takedown lists that lie: a reason or exit 2 in one line, no trace,
nothing run, nothing outside the run touched."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.cases import ROOT
from tests.hostile import bad_files
from tests.hostile.protocols import check_ending
from tests.hostile.tally import Tally
from tests.hostile.world import NUM_PICTURES, World, faults_of

pytestmark = pytest.mark.slow
TINY = ROOT / "sd_core/presets/tiny"


def _curate_source(world: World, path: Path) -> None:
    """Download what is in the source: done, nothing kept, or refused."""
    case = path.parent
    options = {"path": path, "image__size": 32, "image__min_side_px": 8, "download__retries": 0}
    arguments = world.curate(case / "run", "--steps", "download", **options)
    ended = world.command("curate", *arguments, folder=case)
    check_ending(ended, 0, 2)
    if ended.code == 0:
        assert faults_of(case / "run") == []
    else:
        assert path.name in ended.err, ended.err
        assert len(ended.err.strip().splitlines()) < 12, ended.err
    shutil.rmtree(case)


def test_a_list_in_parquet_is_read_or_refused(world: World, tally: Callable[[str], Tally]) -> None:
    tallied = tally("bad input: Parquet lists")
    urls = [f"{world.server.url}/{number:03d}.png" for number in range(NUM_PICTURES)]
    for number in tallied.some(range(200), few=8):
        with tallied.case(number):
            path = world.new("parquet") / "list.parquet"
            path.write_bytes(bad_files.parquet(tallied.random, urls[:5]))
            _curate_source(world, path)
    tallied.close()


def test_an_archive_is_read_or_refused(world: World, tally: Callable[[str], Tally]) -> None:
    tallied = tally("bad input: tars")
    for number in tallied.some(range(150), few=6):
        with tallied.case(number):
            path = world.new("tar") / "samples.tar"
            path.write_bytes(bad_files.tar(tallied.random))
            _curate_source(world, path)
    tallied.close()


_MODELS = {
    "clip": ("clip", "score.clip.name={}"),
    "autoencoder": ("autoencoder", "encode.autoencoder.model={}"),
    "text encoder": ("clip", "encode.text_encoder.clip.name={}"),
    "aesthetic": ("aesthetic.safetensors", "score.aesthetic_v1.weights={}"),
}


def test_a_model_that_is_broken_or_hostile_is_refused_and_not_run(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied = tally("bad input: models (pickles, safetensors, settings)")
    for number in tallied.some(range(80), few=4):
        name = sorted(_MODELS)[number % len(_MODELS)]
        what, setting = _MODELS[name]
        case = world.new("model")
        model, canary = case / what, case / "canary"
        copy = shutil.copytree if (TINY / what).is_dir() else shutil.copyfile
        copy(TINY / what, model)
        files = sorted(model.rglob("*")) if model.is_dir() else [model]
        bad = tallied.random.choice(files)
        bad.write_bytes(bad_files.weights(tallied.random, bad.read_bytes(), canary))
        with tallied.case(f"{number}: {name}, {bad.name}"):
            arguments = world.curate(case / "run", "--set", setting.format(model))
            ended = world.command("curate", *arguments, folder=case)
            check_ending(ended, 0, 2, 4)
            assert not canary.exists(), "code of the file was run"
            if ended.code == 2:
                assert what in ended.err, ended.err
        shutil.rmtree(case)
    tallied.close()


def test_a_list_for_a_takedown_is_read_or_refused(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied = tally("bad input: takedown lists")
    for number in tallied.some(range(40), few=2):
        case = world.new("entries")
        suffix, content = bad_files.entries(tallied.random)
        path = case / f"list{suffix}"
        path.write_bytes(content)
        shutil.copytree(world.curated, case / "run")
        kind = tallied.random.choice(("keys", "urls", "domains", "sha256"))
        with tallied.case(f"{number}: {kind} {suffix} {content[:60]!r}"):
            arguments = [str(case / "run"), f"--{kind}", str(path)]
            ended = world.command("takedown", *arguments, folder=case)
            check_ending(ended, 0, 2)
            assert faults_of(case / "run") == []
        shutil.rmtree(case)
    tallied.close()
