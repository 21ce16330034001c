"""Shards that were given up are made again by --retry: any step, any job, the same bytes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs import curate, generate, verify
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from pipelines.steps.download.step import DownloadStep
from pipelines.steps.encode import EncodeStep, StoredLatentsStep
from pipelines.steps.generate import GenerateStep
from pipelines.steps.score import ScoreStep
from tests.contracts import cases, job_cases
from tests.contracts.cases import ServedList
from tests.contracts.test_revisions import FOLDERS, current_files

pytestmark = pytest.mark.slow
Capsys = pytest.CaptureFixture[str]


@contextmanager
def harmed(*steps: type[Any]) -> Iterator[None]:
    """The first step fails on shard 0, the next on shard 1, and so on."""
    with pytest.MonkeyPatch.context() as patch:
        for poison, step in enumerate(steps):
            patch.setattr(step, "run", _failing(step.run, poison))
        yield


def _failing(run: Callable[..., Any], poison: int) -> Callable[..., Any]:
    def fail(self: Any, shard_id: int) -> Any:
        if shard_id == poison:
            raise ValueError(f"poison in shard {shard_id}")
        return run(self, shard_id)

    return fail


def quarantined(run: Path) -> dict[str, tuple[int, ...]]:
    steps = read_revision(RunStore(str(run))).steps
    return {name: step.quarantined for name, step in steps.items() if step.quarantined}


def test_a_curation_makes_again_what_each_of_its_steps_gave_up(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    arguments = job_cases.curate(
        served_list.path,
        tmp_path / "run",
        plan__rows_per_shard=10,
        download__timeout_s=3.0,
        encode="{autoencoder: {model: 'preset:tiny/autoencoder'}, "
        "text_encoder: {clip: {name: 'preset:tiny/clip'}}}",
        engine__shard_tries=1,
        engine__max_quarantined_shards=1,
    )
    told = "1 shard(s) were given up, see above: mend the cause, then the same command with --retry"
    with harmed(EncodeStep):
        outcome = job_cases.call(curate.main, *arguments, capsys=capsys)
    assert (outcome.code, outcome.err) == (3, f"{told} makes them again\n")
    encoded = current_files(tmp_path / "run", "latents")
    assert job_cases.call(curate.main, *arguments, capsys=capsys).code == 3
    with harmed(ScoreStep):
        outcome = job_cases.call(curate.main, *arguments, "--retry", capsys=capsys)
    assert outcome.code == 0, outcome
    assert "retry: 1 shard(s) of encode" in outcome.out
    assert "encode: 5 of 6 shards are as they were" in outcome.out
    assert encoded.items() < current_files(tmp_path / "run", "latents").items()
    assert current_files(tmp_path / "run", *FOLDERS) == current_files(unharmed_run, *FOLDERS)
    assert job_cases.call(verify.main, tmp_path / "run", "--deep", capsys=capsys).code == 0
    outcome = job_cases.call(curate.main, *arguments, "--retry", capsys=capsys)
    assert outcome.code == 0
    assert "no row failed for a reason that can pass, no shard was given up" in outcome.out


def test_two_steps_that_gave_shards_up_are_mended_by_one_retry_with_other_fetch_options(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    run = tmp_path / "run"
    options = {"engine__shard_tries": 1, "engine__max_quarantined_shards": 2}
    small = options | {"download__max_bytes": 4291}
    with harmed(DownloadStep, ScoreStep):
        cases.run(cases.configuration(served_list.path, run, **small))
    assert quarantined(run) == {"download": (0,), "score": (1,)}
    wider = options | {"download__timeout_s": 4.0, "download__retries": 1}
    config = cases.configuration(served_list.path, run, **wider)
    with pytest.raises(Exception, match=r"download\.timeout_s: was 3\.0, is now 4\.0"):
        cases.run(config)
    result, said = cases.run(config, retry=True)
    assert (result.quarantined, quarantined(run)) == (0, {})
    (told,) = [line for line in said if line.startswith("retry: ")]
    assert told.startswith("retry: body_too_large ")
    assert told.endswith("shard_quarantined 10, 1 shard(s) of score")
    assert current_files(run, *FOLDERS) == current_files(unharmed_run, *FOLDERS)
    assert cases.run(config)[1] == ["nothing to do: every asked step is complete"]
    less = cases.configuration(served_list.path, run, **wider, download__max_bytes=1_000_000)
    with pytest.raises(Exception, match=r"download\.max_bytes: was 4194304, is now 1000000"):
        cases.run(less, retry=True)
    assert cases.run(config)[1] == ["nothing to do: every asked step is complete"]


def test_a_generation_makes_again_what_each_of_its_steps_gave_up(
    tmp_path: Path, capsys: Capsys
) -> None:
    prompts = job_cases.write_prompts(tmp_path / "p.parquet", [f"circle {n}" for n in range(3)])
    options = {
        "plan__images_per_shard": 1,
        "score": "{clip: {name: 'preset:tiny/clip'}}",
        "engine__shard_tries": 1,
        "engine__max_quarantined_shards": 1,
    }
    unharmed = job_cases.generate(prompts, tmp_path / "unharmed", **options)
    assert job_cases.call(generate.main, *unharmed, capsys=capsys).code == 0
    arguments = job_cases.generate(prompts, tmp_path / "run", **options)
    with harmed(GenerateStep, ScoreStep, StoredLatentsStep):
        assert job_cases.call(generate.main, *arguments, capsys=capsys).code == 3
    assert quarantined(tmp_path / "run") == {"generate": (0,), "score": (1,), "encode": (2,)}
    outcome = job_cases.call(generate.main, *arguments, "--retry", capsys=capsys)
    assert outcome.code == 0, outcome
    assert "retry: 1 shard(s) of generate, 1 shard(s) of score" in outcome.out
    assert "generate: 2 of 3 shards are as they were" in outcome.out
    folders = ("images", "facts/generate", "facts/score", "metadata", "ledger", "latents")
    assert current_files(tmp_path / "run", *folders) == current_files(
        tmp_path / "unharmed", *folders
    )
    assert job_cases.call(verify.main, tmp_path / "run", "--deep", capsys=capsys).code == 0
