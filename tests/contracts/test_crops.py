"""`clean --crops`: every picture of a kept row once, no other, and what that costs is said."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import clean, curate, export, report, takedown, verify, why
from pipelines import open_run
from pipelines.config import ConfigError
from pipelines.run.crops import CROPS_FILE
from pipelines.run.store import RunStore
from pipelines.steps.generate.config import InitConfig
from pipelines.steps.generate.source_pictures import SourcePictures
from pipelines.training.image_set import check_tars, open_image_set, read_first
from tests.contracts import cases, generation_cases, job_cases
from tests.contracts.cases import Killed, ServedList
from tests.contracts.earlier_layout import as_of_before_work
from tests.contracts.takedown_cases import left_in

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def cleaned_run(unharmed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference run without its crops."""
    run = Path(shutil.copytree(unharmed_run, tmp_path_factory.mktemp("cleaned") / "run"))
    assert clean.main([str(run), "--crops"]) == 0
    return run


@pytest.fixture
def run(cleaned_run: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(cleaned_run, tmp_path / "run"))


def images(run: Path, *, dropped: bool = False) -> dict[str, bytes]:
    return {image.key: image.content for image in open_run(run).images(dropped=dropped)}


def recut(served_list: ServedList, run: Path, threshold: float, **options: Any) -> list[str]:
    config = cases.configuration(
        served_list.path, run, select__rules=f"[{{column: aesthetic_v1, min: {threshold}}}]"
    )
    return cases.run(config, steps=("select", "encode"), **options)[1]


def refused(served_list: ServedList, run: Path, *more: str, capsys: Capsys, **options: Any) -> str:
    """What a job is refused with, having written nothing."""
    before = cases.data_files(run), (run / "run.json").read_bytes()
    settings = {
        **{"source__path": served_list.path, "output": run, "plan__rows_per_shard": 10},
        **{"download__allow_networks": "[127.0.0.0/8]", "download__timeout_s": 3.0},
        **{"download__retries": 0, "engine__runner": "local"},
    }
    asked = ["--config", "demo", *more, *job_cases.sets(**(settings | options))]
    ended = job_cases.call(curate.main, *asked, capsys=capsys)
    assert ended.code == 2, ended
    assert (cases.data_files(run), (run / "run.json").read_bytes()) == before
    return ended.err.strip().splitlines()[-1]


def test_it_says_what_it_removes_and_what_a_wider_cut_would_cost_and_dry_changes_nothing(
    unharmed_run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    run = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    before = cases.data_files(run)
    tars = list((run / "_work/images").glob("*.tar"))
    gone = len(images(run, dropped=True)) - len(images(run))
    size = sum(tar.stat().st_size for tar in tars)
    cost = f"would have to fetch them again: {gone} pictures of dropped rows, about "
    dry = job_cases.call(clean.main, run, "--crops", "--dry-run", capsys=capsys)
    assert f"crops: {len(tars)} file(s), {size:,} bytes would be removed" in dry.out
    assert f"any of the {gone} dropped rows again {cost}" in dry.out
    assert cases.data_files(run) == before
    assert not (run / "_work" / CROPS_FILE).exists()
    done = job_cases.call(clean.main, run, "--crops", capsys=capsys)
    assert done.code == 0
    assert f"crops: {len(tars)} file(s), {size:,} bytes removed" in done.out
    assert cost in done.out
    assert not list((run / "_work/images").glob("*.tar"))
    again = job_cases.call(clean.main, run, "--crops", capsys=capsys)
    assert "crops: 0 file(s), 0 bytes removed" in again.out
    assert cost in again.out


def test_all_that_needs_kept_images_reads_the_same_bytes(
    unharmed_run: Path, cleaned_run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    kept = images(unharmed_run)
    assert images(cleaned_run) == kept
    assert images(cleaned_run, dropped=True) == kept
    sets = [open_image_set(str(run), storage_options={}) for run in (unharmed_run, cleaned_run)]
    assert sets[0].sha256 == sets[1].sha256, "a training goes on"
    assert (read_first(sets[0], len(kept)) == read_first(sets[1], len(kept))).all()
    assert check_tars(sets[1:], rank=0, world_size=1)
    key = min(kept)
    pictures = [
        SourcePictures(InitConfig(path=str(run)), enlargement=1).read(key)
        for run in (unharmed_run, cleaned_run)
    ]
    assert pictures[0].equal(pictures[1])
    told = job_cases.call(why.main, cleaned_run, key, capsys=capsys).out
    assert "image: images/" in told
    gone = min(images(unharmed_run, dropped=True).keys() - kept.keys())
    assert (
        "image: removed: clean --crops"
        in job_cases.call(why.main, cleaned_run, gone, capsys=capsys).out
    )
    path = tmp_path / "folder"
    assert export.main([str(cleaned_run), "--to", str(path), "--format", "folder"]) == 0
    assert sorted(file.read_bytes() for file in path.rglob("*.jpg")) == sorted(kept.values())
    assert report.main([str(cleaned_run)]) == 0
    page = (cleaned_run / "report/index.html").read_text()
    assert "removed: clean --crops" in page
    assert "cannot be read" not in page


def test_verify_knows_the_crops_as_removed_and_checks_what_is_left(
    run: Path, capsys: Capsys
) -> None:
    for flags in ((), ("--deep",)):
        ended = job_cases.call(verify.main, run, *flags, capsys=capsys)
        assert ended.code == 0, ended
        assert "clean --crops removed" in ended.err
    tar = min((run / "_work/kept").glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[1500] ^= 1
    tar.write_bytes(content)
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 1
    tar.unlink()
    assert job_cases.call(verify.main, run, capsys=capsys).code == 1


def test_cuts_within_the_kept_rows_work_and_end_with_the_bytes_of_a_run_that_has_its_crops(
    served_list: ServedList, unharmed_run: Path, run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    whole = Path(shutil.copytree(unharmed_run, tmp_path / "whole"))
    first = images(run)
    recut(served_list, run, 7.5)
    assert clean.main([str(run), "--grace", "0"]) == 0
    few = images(run)
    for each in (run, whole):
        recut(served_list, each, 7.0)  # which keeps rows again that lie in the first cut's tars
    assert images(run) == images(whole)
    assert 0 < len(few) < len(images(run)) < len(first)
    for folder in ("images", "latents", "ledger"):
        shown = [
            {file.name: file.read_bytes() for file in (each / folder).iterdir()}
            for each in (run, whole)
        ]
        assert shown[0] == shown[1]
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0
    assert clean.main([str(run), "--crops", "--grace", "0"]) == 0
    left = {file.name for file in (run / "_work/kept").glob("*.tar")}
    assert len(left) == len(list((run / "images").glob("*.tar")))
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0


def test_what_would_need_a_removed_picture_is_refused_before_anything_is_written(
    served_list: ServedList, unharmed_run: Path, run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    whole = Path(shutil.copytree(unharmed_run, tmp_path / "whole"))
    recut(served_list, whole, 2.0)
    more = len(images(whole).keys() - images(run).keys())
    rules = {"select__rules": "[{column: aesthetic_v1, min: 2.0}]"}
    told = refused(served_list, run, "--steps", "select,encode", capsys=capsys, **rules)
    assert f"keeps {more} row(s) again" in told
    assert "give another `output`" in told
    for flag, options in (("--grow", {}), ("--retry", {"download__timeout_s": 4.0})):
        told = refused(served_list, run, flag, capsys=capsys, **options)
        assert "every picture may be needed" in told
        assert "give another `output`" in told
    _, said = cases.run(cases.configuration(served_list.path, run))
    assert said[-1] == "nothing to do: every asked step is complete"


def test_a_new_cache_is_made_of_what_is_left(
    served_list: ServedList, run: Path, capsys: Capsys
) -> None:
    config = cases.configuration(served_list.path, run, encode__dtype="float32")
    cases.run(config, steps=("encode",))
    assert {s.key for s in open_run(run).latents()} == images(run).keys()
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0


def test_killed_between_the_record_and_any_file_it_is_finished_by_the_same_command(
    unharmed_run: Path, tmp_path: Path, capsys: Capsys, kill_at_write: Callable[..., Any]
) -> None:
    run = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    kept = images(run)
    counted = kill_at_write(None)
    job_cases.call(clean.main, run, "--crops", "--dry-run", capsys=capsys)
    before = counted["writes"]
    kill_at_write(before + 3)  # the record, and two files
    with pytest.raises(Killed):
        clean.main([str(run), "--crops"])
    kill_at_write(None)
    (run / "lease.json").unlink(missing_ok=True)
    assert 0 < len(list((run / "_work/images").glob("*.tar"))) < len(kept)
    assert (run / "_work" / CROPS_FILE).exists()
    assert images(run) == kept
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0
    assert clean.main([str(run), "--crops"]) == 0
    assert not list((run / "_work/images").glob("*.tar"))
    assert images(run) == kept


def test_a_generated_run_is_cut_and_taken_down_without_them(tmp_path: Path, capsys: Capsys) -> None:
    run = tmp_path / "run"
    path = generation_cases.write_prompts(tmp_path / "p.parquet", generation_cases.prompts(6))
    rule = "[{{sql: \"key != '{}'\"}}]"
    generation_cases.run(generation_cases.configuration(path, run))
    first, second, third, *rest = sorted(images(run))
    steps = ("select", "publish", "encode")

    def cut(key: str) -> None:
        options = {"select__rules": rule.format(key)}
        generation_cases.run(generation_cases.configuration(path, run, **options), steps=steps)

    cut(first)
    before = images(run)
    assert clean.main([str(run), "--crops", "--grace", "0"]) == 0
    assert images(run, dropped=True) == before
    with pytest.raises(ConfigError, match=r"keeps 1 row\(s\) again"):
        cut(second)
    (tmp_path / "keys.txt").write_text(third)
    assert takedown.main([str(run), "--keys", str(tmp_path / "keys.txt")]) == 0
    assert clean.main([str(run), "--grace", "0"]) == 0
    assert images(run) == {key: before[key] for key in (second, *rest)}
    assert left_in(run, {key: before[key] for key in (third,)}) == []
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0


@pytest.mark.parametrize("is_cut_since", [False, True])
def test_a_takedown_leaves_no_byte_also_of_what_stands_for_the_crops(
    served_list: ServedList, run: Path, tmp_path: Path, capsys: Capsys, is_cut_since: bool
) -> None:
    kept = images(run)
    if is_cut_since:
        recut(served_list, run, 7.0)
    shown = images(run)
    keys = [min(shown), *([min(kept.keys() - shown.keys())] if is_cut_since else [])]
    wanted = {key: kept[key] for key in keys}
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    assert takedown.main([str(run), "--keys", str(tmp_path / "keys.txt")]) == 0
    assert clean.main([str(run), "--grace", "0"]) == 0
    assert left_in(run, wanted) == []
    assert images(run).keys() == shown.keys() - set(keys)
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0
    recut(served_list, run, 6.5)
    assert not set(images(run)) & set(keys)
    assert clean.main([str(run), "--crops", "--grace", "0"]) == 0
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0


def test_a_run_that_is_not_settled_keeps_its_crops(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    def ended(run: Path) -> str:
        before = cases.data_files(run)
        outcome = job_cases.call(clean.main, run, "--crops", capsys=capsys)
        assert outcome.code == 2, outcome
        assert cases.data_files(run) == before
        return outcome.err

    flat = as_of_before_work(shutil.copytree(unharmed_run, tmp_path / "flat"))
    assert "former layout" in ended(flat)
    off = Path(shutil.copytree(unharmed_run, tmp_path / "off"))
    options = {"select__rules__0__min": 7.5, "steps": "{publish: null}"}
    cases.run(cases.configuration(served_list.path, off, **options), steps=("select", "encode"))
    assert "no complete publish step" in ended(off)
    begun = Path(shutil.copytree(unharmed_run, tmp_path / "begun"))
    config = cases.configuration(served_list.path, begun, select__rules__0__min=7.5)
    cases.run(config, steps=("select",))
    assert "encode is not complete; run the job again first" in ended(begun)


def test_a_run_whose_kept_pictures_are_damaged_keeps_its_crops(
    unharmed_run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    run = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    tar = max((run / "_work/kept").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-512])
    crops = sorted((run / "_work/images").iterdir())
    ended = job_cases.call(clean.main, run, "--crops", capsys=capsys)
    assert ended.code == 1
    assert "damaged" in ended.err
    assert sorted((run / "_work/images").iterdir()) == crops
    assert not RunStore(str(run)).exists(CROPS_FILE)
