"""What anybody opens is the current revision's kept set, by any reader, whatever was done."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import clean, curate, takedown, train, verify
from jobs.bench.reader_calls import Found, reader_calls
from jobs.bench.s3_emulator import S3Endpoint
from pipelines.revisions import readers
from pipelines.run.on_threads import do_all
from pipelines.run.reader import open_run
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from pipelines.workflows import job
from tests.contracts import cases, job_cases, training_cases
from tests.contracts.cases import Killed, ServedList
from tests.contracts.earlier_layout import as_of_before_work

Capsys = pytest.CaptureFixture[str]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Where `datasets`, without a network, keeps what it has read of every revision."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return str(tmp_path / "hf")


def check_readers(store: RunStore, cache: str) -> dict[str, Found]:
    """Hold what each reader gives, as the card says to read, against the manifests."""
    opened = open_run(store.root, storage_options=store.storage_options)
    rows, kept = opened.ledger().num_rows, sorted(opened.kept(["key"])["key"].to_pylist())
    encoded = sorted(sample.key for sample in opened.latents())
    expected = {
        "ledger": Found(rows=rows, keys=kept),
        "images": Found(rows=len(kept), keys=kept),
        "latents": Found(rows=len(encoded), keys=encoded),
    }
    found = {name: call() for name, call in reader_calls(store, cache)}
    assert found == {name: expected[name.partition(":")[0]] for name in found}
    assert {"images: datasets", "latents: datasets", "ledger: datasets"} <= found.keys()
    return found


class Revisions:
    """A run on a disk or a store, as it is cut anew, grown and taken down of."""

    def __init__(self, store: RunStore, served_list: ServedList, folder: Path) -> None:
        self.store, self._path, self._folder = store, folder / "list.parquet", folder
        self._table = pq.read_table(served_list.path)

    def make(self, num_rows: int) -> None:
        pq.write_table(self._table.slice(0, num_rows), self._path)
        cases.run(cases.configuration(self._path, self.store.root))

    def cut(self, threshold: float, **options: bool) -> None:
        rules = f"[{{column: aesthetic_v1, min: {threshold}}}]"
        config = cases.configuration(self._path, self.store.root, select__rules=rules)
        cases.run(config, steps=() if options else ("select", "encode"), **options)

    def grow(self, threshold: float, num_rows: int) -> None:
        pq.write_table(self._table.slice(0, num_rows), self._path)
        self.cut(threshold, grow=True)

    def take_down(self, num_rows: int, capsys: Capsys) -> set[str]:
        keys = open_run(self.store.root).kept(["key"])["key"].to_pylist()[:num_rows]
        path = self._folder / "keys.txt"
        path.write_text("\n".join(keys))
        ended = job_cases.call(takedown.main, self.store.root, "--keys", path, capsys=capsys)
        assert ended.code == 0, ended
        return set(keys)


@pytest.mark.filterwarnings("ignore")  # datasets' own
def test_every_reader_gives_the_kept_rows_after_re_cuts_growth_and_a_takedown(
    served_list: ServedList, tmp_path: Path, cache: str, capsys: Capsys
) -> None:
    run = tmp_path / "run"
    revisions = Revisions(RunStore(str(run)), served_list, tmp_path)
    revisions.make(30)
    for threshold in (6.0, 7.0, 7.5, 5.0, 6.5):
        revisions.cut(threshold)
    check_readers(revisions.store, cache)
    revisions.grow(6.5, cases.NUM_ROWS)
    keys = revisions.take_down(3, capsys)
    found = check_readers(revisions.store, cache)
    assert found["ledger: pandas"].rows == cases.NUM_ROWS
    assert not keys & set(found["images: webdataset"].keys)
    assert job_cases.call(clean.main, run, "--grace", "0", capsys=capsys).code == 0
    check_readers(revisions.store, cache)
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0


@pytest.mark.filterwarnings("ignore")  # datasets' own
def test_every_reader_gives_the_same_from_a_store_and_never_an_earlier_revision(
    served_list: ServedList,
    s3_endpoint: S3Endpoint,
    tmp_path: Path,
    cache: str,
    capsys: Capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)  # else it reads from no store
    store = RunStore(f"s3://{s3_endpoint.bucket}/readers", s3_endpoint.storage_options)
    revisions = Revisions(store, served_list, tmp_path)
    revisions.make(20)
    before = check_readers(store, cache)
    revisions.cut(7.0)
    revisions.grow(7.0, 30)
    keys = revisions.take_down(1, capsys)
    found = check_readers(store, cache)
    assert found["ledger: datasets"].rows == 30
    assert keys < set(before["images: datasets"].keys) - set(found["images: datasets"].keys)


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
        ("_work/readers.json", None, "_work/readers.json: missing"),
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
    served_list: ServedList, tmp_path: Path, cache: str
) -> None:
    run = tmp_path / "run"
    cases.run(cases.configuration(served_list.path, run))
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"_work", "ledger", "lists"}
    check_readers(RunStore(str(run)), cache)
    assert verify.main([str(run), "--deep"]) == 0


@pytest.mark.usefixtures("no_links")
def test_what_lists_name_is_kept_by_a_clean_up_after_a_re_cut_that_was_killed(
    served_list: ServedList,
    unharmed_run: Path,
    tmp_path: Path,
    capsys: Capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def listed() -> list[Path]:
        names = ("images", "latents", "ledger")
        lines = (line for n in names for line in (run / f"lists/{n}.txt").read_text().split())
        return [run / line for line in lines]

    def recut() -> None:
        config = cases.configuration(served_list.path, run, select__rules__0__min=7.5)
        cases.run(config, steps=("select", "encode"))

    def die(store: RunStore) -> None:
        raise Killed

    run = shutil.copytree(unharmed_run, tmp_path / "run")
    shutil.rmtree(run / "lists")
    cases.run(cases.configuration(served_list.path, run))
    before = listed()
    with monkeypatch.context() as patch:
        patch.setattr(job, "show_revision", die)
        with pytest.raises(Killed):
            recut()
    (run / "lease.json").unlink(missing_ok=True)
    for _ in range(2):
        assert job_cases.call(clean.main, run, "--grace", "0", capsys=capsys).code == 0
        assert [path for path in listed() if not path.exists()] == []
        assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0
        recut()
    assert job_cases.call(clean.main, run, "--grace", "0", capsys=capsys).code == 0
    assert not any(
        path.exists() for path in before if path.suffix == ".tar" and path not in listed()
    )


def test_a_job_that_slept_while_rows_were_taken_down_does_not_show_them_again(
    served_list: ServedList,
    unharmed_run: Path,
    tmp_path: Path,
    capsys: Capsys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = shutil.copytree(unharmed_run, tmp_path / "run")
    keys = open_run(run).kept(["key"])["key"].to_pylist()
    (tmp_path / "keys.txt").write_text("\n".join(keys[:3]))
    ended = []

    def sleep_and_change(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(readers, "do_all", do_all)
        (run / "lease.json").unlink()
        asked = (run, "--keys", tmp_path / "keys.txt")
        ended.append(job_cases.call(takedown.main, *asked, capsys=capsys))
        do_all(*arguments, **options)

    monkeypatch.setattr(readers, "do_all", sleep_and_change)
    shutil.rmtree(run / "lists")
    cases.run(cases.configuration(served_list.path, run))
    assert ended[0].code == 0
    found = set()
    for path in (run / "images").glob("*.tar"):
        with tarfile.open(path) as tar:
            found.update(name.partition(".")[0] for name in tar.getnames())
    assert found == set(keys[3:])
    assert job_cases.call(verify.main, run, "--deep", capsys=capsys).code == 0


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
