"""What anybody opens is the current revision's kept set, by any reader, whatever was done."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pyarrow.dataset
import pytest
import webdataset
from PIL import Image

from jobs import clean, curate, takedown, train, verify
from pipelines.run.reader import open_run
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from tests.contracts import cases, job_cases, training_cases
from tests.contracts.cases import Killed, ServedList
from tests.contracts.earlier_layout import as_of_before_work

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The library, without a network, with a cache of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return datasets


def read_by_all(run: Path | str, datasets: Any) -> dict[str, Any]:
    """Rows of the ledger, and keys of images and latents, as the card says to read them."""
    lists = {
        name: [
            str(Path(run) / line) for line in (Path(run) / f"lists/{name}.txt").read_text().split()
        ]
        for name in ("images", "latents")
    }
    query = f"SELECT count(*), count(*) FILTER (kept) FROM '{run}/ledger/*.parquet'"
    found: dict[str, Any] = {
        "pandas": len(pandas.read_parquet(f"{run}/ledger")),
        "arrow": pyarrow.dataset.dataset(f"{run}/ledger").count_rows(),
        "duckdb": duckdb.sql(query).fetchall()[0],
        "datasets": datasets.load_dataset(f"{run}/ledger", split="train").num_rows,
    }
    for name, files in lists.items():
        tars = webdataset.WebDataset(files, shardshuffle=False, empty_check=False)
        found[f"webdataset {name}"] = sorted(sample["__key__"] for sample in tars)
        rows = datasets.load_dataset(str(run), name, split="train")
        found[f"datasets {name}"] = sorted(rows["__key__"])
    return found


def expected(run: Path) -> dict[str, Any]:
    """The same by `open_run`, which goes by the manifests."""
    opened = open_run(run)
    rows, kept = opened.ledger().num_rows, sorted(opened.kept(["key"])["key"].to_pylist())
    encoded = sorted(sample.key for sample in opened.latents())
    by_row = {"pandas": rows, "arrow": rows, "datasets": rows, "duckdb": (rows, len(kept))}
    images = dict.fromkeys(("webdataset images", "datasets images"), kept)
    return {
        **by_row,
        **images,
        **dict.fromkeys(("webdataset latents", "datasets latents"), encoded),
    }


@pytest.mark.filterwarnings("ignore")  # datasets' own
def test_every_reader_gives_the_kept_rows_after_re_cuts_growth_and_a_takedown(
    served_list: ServedList, tmp_path: Path, datasets: Any, capsys: Capsys
) -> None:
    run, path = tmp_path / "run", tmp_path / "list.parquet"
    table = cases.pq.read_table(served_list.path)
    cases.pq.write_table(table.slice(0, 30), path)

    def cut(threshold: float, **options: bool) -> None:
        rules = f"[{{column: aesthetic_v1, min: {threshold}}}]"
        steps = () if options else ("select", "encode")
        cases.run(cases.configuration(path, run, select__rules=rules), steps=steps, **options)

    cases.run(cases.configuration(path, run))
    for threshold in (6.0, 7.0, 7.5, 5.0, 6.5):
        cut(threshold)
    assert read_by_all(run, datasets) == expected(run)
    cases.pq.write_table(table, path)
    cut(6.5, grow=True)
    keys = open_run(run).kept(["key"])["key"].to_pylist()[:3]
    (tmp_path / "keys.txt").write_text("\n".join(keys))
    assert (
        job_cases.call(takedown.main, run, "--keys", tmp_path / "keys.txt", capsys=capsys).code == 0
    )
    found = read_by_all(run, datasets)
    assert found == expected(run)
    assert found["pandas"] == cases.NUM_ROWS
    assert not set(keys) & set(found["webdataset images"])
    assert job_cases.call(clean.main, run, "--grace", "0", capsys=capsys).code == 0
    assert read_by_all(run, datasets) == expected(run)
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0


def test_an_image_lies_with_its_facts_and_scores(unharmed_run: Path) -> None:
    kept = {image.key: image for image in open_run(unharmed_run).images()}
    found = 0
    for path in sorted((unharmed_run / "images").glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name in files:
            key, _, suffix = name.partition(".")
            if suffix == "jpg":
                found += 1
                told = json.loads(files[f"{key}.json"])
                assert files[name] == kept[key].content
                assert Image.open(io.BytesIO(files[name])).size == (told["width"], told["height"])
                assert files[f"{key}.txt"].decode() == kept[key].caption
                for column in ("aesthetic_v1", "clip_similarity", "phash", "sha256", "url"):
                    assert told[column] == kept[key].facts[column]
    assert found == len(kept)


def test_the_step_that_publishes_is_off_by_one_key_and_the_card_then_names_no_images(
    served_list: ServedList, tmp_path: Path
) -> None:
    config = cases.configuration(served_list.path, tmp_path / "run", steps="{publish: null}")
    cases.run(config)
    assert not (tmp_path / "run/images").exists()
    assert not (tmp_path / "run/lists/images.txt").exists()
    card = (tmp_path / "run/README.md").read_text()
    assert "images/*.tar" not in card
    assert "latents/*.tar" in card
    assert verify.main([str(tmp_path / "run"), "--deep"]) == 0


def test_a_re_cut_killed_at_any_write_ends_with_what_an_unharmed_one_shows(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path, kill_at_write: Callable[..., Any]
) -> None:
    def shown(run: Path) -> dict[str, bytes]:
        folders = ("ledger", "images", "latents", "lists")
        return {
            str(path.relative_to(run)): path.read_bytes()
            for folder in folders
            for path in sorted((run / folder).rglob("*"))
            if not path.name.startswith(".tmp-")
        }

    def recut(run: Path) -> None:
        config = cases.configuration(served_list.path, run, select__rules__0__min=7.5)
        cases.run(config, steps=("select",))

    whole = shutil.copytree(unharmed_run, tmp_path / "whole")
    counted = kill_at_write(None)
    recut(whole)
    for number in range(counted["writes"] - 28, counted["writes"], 4):
        run = shutil.copytree(unharmed_run, tmp_path / str(number))
        kill_at_write(number)
        with pytest.raises(Killed):
            recut(run)
        kill_at_write(None)
        (run / "lease.json").unlink(missing_ok=True)
        recut(run)
        assert shown(run) == shown(whole), number
        assert (run / "README.md").read_bytes() == (whole / "README.md").read_bytes(), number
        assert verify.main([str(run), "--deep"]) == 0
        shutil.rmtree(run)


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("ledger/notes.txt", b"mine", "ledger/notes.txt: a file or folder, expected nothing"),
        ("images/000000.tar", None, "images/000000.tar: missing"),
        ("latents/000000.tar", b"x", "latents/000000.tar: 1 bytes"),
        ("lists/images.txt", b"images/000000.tar\n", "lists/images.txt: changed, or missing"),
        ("lists/files.parquet", None, "lists/files.parquet: changed, or missing"),
    ],
)
def test_what_readers_would_take_for_the_data_is_verified_and_mended_by_the_job(
    served_list: ServedList,
    unharmed_run: Path,
    tmp_path: Path,
    capsys: Capsys,
    path: str,
    content: bytes | None,
    told: str,
) -> None:
    run = shutil.copytree(unharmed_run, tmp_path / "run")
    (run / path).unlink(missing_ok=True)
    if content is not None:
        (run / path).write_bytes(content)
    ended = job_cases.call(verify.main, run, capsys=capsys)
    assert ended.code == 1
    assert told in ended.out
    if not path.endswith("notes.txt"):
        shutil.rmtree(run / "lists")
        cases.run(cases.configuration(served_list.path, run))
        assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without hard links."""
    monkeypatch.setattr(RunStore, "has_links", False)


@pytest.mark.usefixtures("no_links")
@pytest.mark.filterwarnings("ignore")  # datasets' own
def test_without_links_tables_are_copied_and_tars_are_named_where_they_lie(
    served_list: ServedList, tmp_path: Path, datasets: Any
) -> None:
    run = tmp_path / "run"
    cases.run(cases.configuration(served_list.path, run))
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"_work", "ledger", "lists"}
    assert read_by_all(run, datasets) == expected(run)
    assert verify.main([str(run), "--deep"]) == 0


def test_a_run_of_the_former_layout_goes_on_trains_and_is_taken_down_as_it_was(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path, capsys: Capsys
) -> None:
    run = as_of_before_work(shutil.copytree(unharmed_run, tmp_path / "run"))
    keys = open_run(run).kept(["key"])["key"].to_pylist()
    assert keys == open_run(unharmed_run).kept(["key"])["key"].to_pylist()
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0
    _, said = cases.run(cases.configuration(served_list.path, run))
    assert said[-1] == "nothing to do: every asked step is complete"
    config = tmp_path / "train.yaml"
    training_cases.write_config(config, run / "latents", tmp_path / "out", loop__steps=1)
    assert job_cases.call(train.main, "--config", config, capsys=capsys).code == 0
    changed = cases.configuration(served_list.path, run, select__rules__0__min=7.5)
    cases.run(changed, steps=("select", "encode"))
    left = open_run(run).kept(["key"])["key"].to_pylist()
    assert 1 < len(left) < len(keys)
    (tmp_path / "keys.txt").write_text(left[0])
    ended = job_cases.call(takedown.main, run, "--keys", tmp_path / "keys.txt", capsys=capsys)
    assert ended.code == 0, ended
    assert open_run(run).kept(["key"])["key"].to_pylist() == left[1:]
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0
    assert not (run / "_work").exists()
    assert "publish" not in read_revision(RunStore(str(run))).steps
    asked = job_cases.call(
        curate.main, *job_cases.curate(served_list.path, run), "--steps", "publish", capsys=capsys
    )
    assert asked.code == 2
