"""Each exit code of the table, given by every job that can give it, and the run that it leaves."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from jobs import clean, curate, generate, takedown, train, verify
from pipelines.run.lease import Lease
from pipelines.run.store import RunStore
from tests.contracts import job_cases as cases
from tests.contracts.cases import ServedList
from tests.contracts.training_cases import write_config

pytestmark = pytest.mark.slow

Capsys = pytest.CaptureFixture[str]


def damage_images(run: Path) -> None:
    """Cut the stored images off, as a failing disk would."""
    for path in (run / "_work/images").glob("*.tar"):
        path.write_bytes(path.read_bytes()[:100])


def test_nothing_kept_is_4_with_the_biggest_reason_also_when_it_is_asked_again(
    served_list: ServedList, tmp_path: Path, capsys: Capsys
) -> None:
    path = cases.write_list(tmp_path / "list.parquet", served_list, cases.BAD)
    arguments = cases.curate(path, tmp_path / "run")
    told = "nothing was kept: 1 of 2 rows: http_gone; 1 of 2 rows: http_not_found\n"
    for more in ([], [], ["--grow"]):
        outcome = cases.call(curate.main, *arguments, *more, capsys=capsys)
        assert (outcome.code, outcome.err) == (4, told), more
        assert "every row is accounted for" in outcome.out
    assert cases.call(verify.main, tmp_path / "run", "--deep", capsys=capsys).code == 0


def test_nothing_left_by_select_is_4_and_a_re_cut_of_it_0(
    served_list: ServedList, tmp_path: Path, capsys: Capsys
) -> None:
    path = cases.write_list(tmp_path / "list.parquet", served_list, cases.PICTURES)
    strict = {"select__rules": "[{column: aesthetic_v1, min: 9.99}]"}
    outcome = cases.call(
        curate.main, *cases.curate(path, tmp_path / "run", **strict), capsys=capsys
    )
    assert outcome.code == 4
    assert outcome.err.startswith("nothing was kept: ")
    assert "4 of 4 rows: aesthetic_v1_below_min" in outcome.err
    loose = cases.curate(path, tmp_path / "run", select__rules="[]")
    # A part of the steps says nothing of the whole.
    assert cases.call(curate.main, *loose, "--steps", "select", capsys=capsys).code == 0
    assert cases.call(curate.main, *loose, capsys=capsys).code == 0
    assert cases.call(curate.main, *loose, "--grow", capsys=capsys).code == 0


def test_a_part_of_the_steps_is_never_4(
    served_list: ServedList, tmp_path: Path, capsys: Capsys
) -> None:
    path = cases.write_list(tmp_path / "list.parquet", served_list, cases.BAD)
    arguments = cases.curate(path, tmp_path / "run")
    for steps in ("download", "score,select", "select"):
        outcome = cases.call(curate.main, *arguments, "--steps", steps, capsys=capsys)
        assert (outcome.code, outcome.err) == (0, ""), steps
    assert cases.call(curate.main, *arguments, capsys=capsys).code == 4


def test_a_generation_of_nothing_is_4_and_its_growth_0(tmp_path: Path, capsys: Capsys) -> None:
    path = cases.write_prompts(tmp_path / "prompts.parquet", [None, "", "  "])
    arguments = cases.generate(path, tmp_path / "run")
    for _ in range(2):
        outcome = cases.call(generate.main, *arguments, capsys=capsys)
        assert outcome.code == 4
        assert outcome.err.splitlines()[-1].startswith("nothing was kept: ")
        assert "prompt_missing" in outcome.err
    cases.write_prompts(path, [None, "", "  ", "a red circle"])
    assert cases.call(generate.main, *arguments, "--grow", capsys=capsys).code == 0
    assert cases.call(generate.main, *arguments, "--grow", capsys=capsys).code == 0


def test_shards_given_up_are_3_before_4_and_stay_so(
    served_list: ServedList, tmp_path: Path, capsys: Capsys
) -> None:
    path = cases.write_list(tmp_path / "list.parquet", served_list, cases.PICTURES)
    arguments = cases.curate(path, tmp_path / "run", engine__shard_tries=1)
    done = cases.call(curate.main, *arguments, "--steps", "download", capsys=capsys)
    assert done.code == 0
    damage_images(tmp_path / "run")
    outcome = cases.call(curate.main, *arguments, capsys=capsys)
    assert outcome.code == 3
    assert "engine.max_quarantined_shards is 0" in outcome.err
    allowed = [*arguments, *cases.sets(engine__max_quarantined_shards=1)]
    for _ in range(2):
        outcome = cases.call(curate.main, *allowed, capsys=capsys)
        assert outcome.code == 3, outcome
        assert outcome.err == (
            "1 shard(s) were given up, see above: mend the cause, then the same command with "
            "--retry makes them again\n"
        )


def test_shards_of_a_generation_that_are_given_up_are_3(tmp_path: Path, capsys: Capsys) -> None:
    path = cases.write_prompts(tmp_path / "prompts.parquet", ["a red circle"])
    scored = "{clip: {name: preset:tiny/clip}}"
    arguments = cases.generate(path, tmp_path / "run", score=scored, engine__shard_tries=1)
    done = cases.call(generate.main, *arguments, "--steps", "generate", capsys=capsys)
    assert done.code == 0
    damage_images(tmp_path / "run")
    assert cases.call(generate.main, *arguments, capsys=capsys).code == 3


Arguments = Callable[[Path], list[Any]]


def _train(g: Path) -> list[Any]:
    return ["--config", write_config(g / "train.yaml", g / "latents", g / "run")]


@pytest.fixture(scope="module")
def begun(
    served_list: ServedList, unharmed_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a list, prompts, a cache, and a run that is to be written."""
    folder = tmp_path_factory.mktemp("begun")
    cases.write_list(folder / "list.parquet", served_list, cases.PICTURES)
    cases.write_prompts(folder / "prompts.parquet", ["a red circle"])
    (folder / "latents").symlink_to(unharmed_run / "_work/latents")
    (folder / "urls.txt").write_text("http://example.org/a.jpg\n")
    return folder


JOBS: dict[str, tuple[Callable[[list[str] | None], int], Arguments]] = {
    "curate": (curate.main, lambda g: cases.curate(g / "list.parquet", g / "run")),
    "generate": (generate.main, lambda g: cases.generate(g / "prompts.parquet", g / "run")),
    "train": (train.main, _train),
}
CHANGES: dict[str, tuple[Callable[[list[str] | None], int], Arguments]] = {
    "takedown": (takedown.main, lambda g: [g / "run", "--urls", g / "urls.txt"]),
    "clean": (clean.main, lambda g: [g / "run"]),
}


@pytest.fixture
def held(begun: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The run is written by another job, whose heart beats."""
    store = RunStore(str(begun / "run"))
    (begun / "run").mkdir(exist_ok=True)
    if request.param:
        store.replace("run.json", b'{"job": "curate", "steps": {}}')
    try:
        with Lease(store, say=print, beat_s=0.2):
            yield begun
    finally:
        store.delete("run.json")


@pytest.mark.parametrize(
    ("job", "held"),
    [*((name, False) for name in JOBS), *((name, True) for name in CHANGES)],
    indirect=["held"],
)
def test_a_run_that_another_job_writes_is_75(job: str, held: Path, capsys: Capsys) -> None:
    main, arguments = {**JOBS, **CHANGES}[job]
    outcome = cases.call(main, *arguments(held), capsys=capsys)
    assert outcome.code == 75
    assert "is writing this run" in outcome.err
    assert outcome.err.endswith("the same command goes on\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("write", ["put_file", "create_exclusive"])
def test_a_full_or_broken_disk_is_75_gives_up_no_row_and_the_same_command_goes_on(
    begun: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capsys,
    number: int,
    write: str,
) -> None:
    arguments = cases.curate(
        begun / "list.parquet", tmp_path / "run", score="null", select__rules="[]"
    )

    def fail(store: RunStore, *given: Any, **options: Any) -> Any:
        if "manifests" in str(given[0]) or write == "put_file":
            raise OSError(number, "the disk says no", str(tmp_path / "run"))
        return original(store, *given, **options)

    original = getattr(RunStore, write)
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, write, fail)
        outcome = cases.call(curate.main, *arguments, capsys=capsys)
    assert outcome.code == 75, outcome
    assert "the disk says no" in outcome.err
    assert outcome.err.endswith("the same command goes on\n")
    assert not list((tmp_path / "run").glob("_work/manifests/*/*/0*.json"))
    assert not (tmp_path / "run/lease.json").exists()
    assert cases.call(curate.main, *arguments, capsys=capsys).code == 0


def test_a_full_disk_is_75_for_the_other_jobs_that_write(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    def fail(store: RunStore, path: str, content: bytes) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "create_exclusive", fail)
        for name in ("generate", "train"):
            main, arguments = JOBS[name]
            outcome = cases.call(main, *arguments(begun), capsys=capsys)
            assert outcome.code == 75, (name, outcome)
            assert "No space left on device" in outcome.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_75_for_a_training(begun: Path, capsys: Capsys) -> None:
    arguments = [*_train(begun), *cases.sets(engine__use_gpu="true")]
    outcome = cases.call(train.main, *arguments, capsys=capsys)
    assert outcome.code == 75
    assert "torch finds no GPU" in outcome.err


@pytest.fixture
def no_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run on a store that nothing answers for; fsspec would keep its client for later tests."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield "s3://no-such-store/run"
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_store_that_does_not_answer_is_75(
    begun: Path, tmp_path: Path, no_store: str, capsys: Capsys
) -> None:
    store = no_store
    for main, arguments in (
        (verify.main, [store]),
        (clean.main, [store]),
        (curate.main, cases.curate(begun / "list.parquet", store)),
        (curate.main, cases.curate(Path("s3:/x"), tmp_path / "run", source__path=f"{store}/l.csv")),
    ):
        outcome = cases.call(main, *arguments, capsys=capsys)
        assert outcome.code == 75, outcome
        assert "no-such-store" in outcome.err


@pytest.mark.ray
def test_a_cluster_without_the_gpus_is_75(ray_cluster: None, begun: Path, capsys: Capsys) -> None:
    options = {"engine__runner": "ray", "engine__gpus": 8}
    arguments = cases.curate(begun / "list.parquet", begun / "on-ray", **options)
    outcome = cases.call(curate.main, *arguments, capsys=capsys)
    assert outcome.code == 75
    assert "engine.gpus asks for 8 GPU(s), and the cluster has 2" in outcome.err


@pytest.mark.ray
def test_wrong_weights_are_2_from_a_worker_of_ray_too(
    ray_cluster: None, begun: Path, tmp_path: Path, capsys: Capsys
) -> None:
    head = tmp_path / "head.safetensors"
    head.write_bytes(b"no head")
    options = {"engine__runner": "ray", "engine__gpus": 0, "score__aesthetic_v1__weights": head}
    arguments = cases.curate(begun / "list.parquet", tmp_path / "run", **options)
    outcome = cases.call(curate.main, *arguments, capsys=capsys)
    assert outcome.code == 2, outcome
    assert "head.safetensors cannot be read" in outcome.err


def test_faults_are_1_and_a_damaged_run_too(
    served_list: ServedList, tmp_path: Path, capsys: Capsys
) -> None:
    path = cases.write_list(tmp_path / "list.parquet", served_list, cases.PICTURES)
    loose = cases.curate(path, tmp_path / "run", score="null", select__rules="[]")
    assert cases.call(curate.main, *loose, capsys=capsys).code == 0
    (manifest,) = (tmp_path / "run/_work/manifests/download").glob("*/000000.json")
    manifest.write_text("{}")
    assert cases.call(verify.main, tmp_path / "run", capsys=capsys).code == 1
    outcome = cases.call(clean.main, tmp_path / "run", "--grace", "0", capsys=capsys)
    assert (outcome.code, outcome.err[:8]) == (1, "failed: ")
    assert "Traceback" not in outcome.err


def test_a_takedown_of_every_row_leaves_a_run_whose_job_says_4(
    served_list: ServedList, tmp_path: Path, capsys: Capsys
) -> None:
    path = cases.write_list(tmp_path / "list.parquet", served_list, cases.PICTURES)
    arguments = cases.curate(
        path, tmp_path / "run", score="null", select__rules="[]", select__duplicates="off"
    )
    assert cases.call(curate.main, *arguments, capsys=capsys).code == 0
    domains = tmp_path / "domains.txt"
    domains.write_text("127.0.0.1\n")
    outcome = cases.call(takedown.main, tmp_path / "run", "--domains", domains, capsys=capsys)
    assert outcome.code == 0
    outcome = cases.call(curate.main, *arguments, capsys=capsys)
    assert outcome.code == 4
    assert outcome.err == "nothing was kept: 4 of 4 rows: taken_down\n"
