"""A run as readers see it: the current revision alone, every row with its end."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.s3_emulator import S3Endpoint
from pipelines import Run, open_run
from pipelines.plan import load_plan
from pipelines.run.manifest import ShardError, manifest_path
from pipelines.run.record import NotARunError, complete_step, withdraw_step
from pipelines.run.revision_files import IncompleteRunError, NotInRunError
from pipelines.run.store import RunStore, StorageError
from pipelines.steps.select import SelectConfig, Threshold
from sd_core import open_cache
from tests.pipelines import synthetic_run
from tests.pipelines.synthetic_run import NUM_ROWS, SIZE, build_run, ledger_of, write_list

REJECT = "latents_not_finite"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return build_run(tmp_path_factory.mktemp("read"))


@pytest.fixture(scope="module")
def run(store: RunStore) -> Run:
    return open_run(store.root)


@pytest.fixture(scope="module")
def selected(store: RunStore) -> list[dict[str, Any]]:
    """The ledger as select wrote it."""
    return ledger_of(store, load_plan(store)).to_pylist()


def keys(table: pa.Table) -> list[str]:
    return table["key"].to_pylist()


def test_every_row_of_the_list_has_its_end(run: Run, selected: list[dict[str, Any]]) -> None:
    ledger = run.ledger().to_pylist()
    assert [(row["shard_id"], row["row"]) for row in ledger] == [
        (number // 8, number % 8) for number in range(NUM_ROWS)
    ]
    changed = [(old, new) for old, new in zip(selected, ledger, strict=True) if old != new]
    ((old, new),) = changed  # the one that encode refused
    assert old["kept"]
    assert new == {**old, "kept": False, "reason": REJECT}
    assert all(row["kept"] == (row["reason"] is None) for row in ledger)


def test_what_is_kept_has_an_image_and_latents(run: Run) -> None:
    kept = run.kept()
    assert 0 < kept.num_rows < NUM_ROWS
    assert run.revision.steps["encode"].kept == kept.num_rows
    images, latents = list(run.images()), list(run.latents())
    assert [image.key for image in images] == keys(kept)
    assert [sample.key for sample in latents] == keys(kept)
    assert [image.facts for image in images] == kept.to_pylist()
    assert [image.caption for image in images] == kept["caption"].to_pylist()
    assert latents[0].raw_latents.shape == run.cache().spec.latents_shapes[0]


def test_an_image_is_its_file_and_its_pixels(run: Run) -> None:
    image = next(run.images())
    assert image.pixels.shape == (SIZE, SIZE, 3)
    assert image.pixels.dtype == np.uint8
    opened = image.open()
    assert opened.format == "JPEG"
    assert np.array_equal(np.asarray(opened), image.pixels)
    assert str(image.pixels[0, 0]) not in repr(image)


def test_dropped_images_are_read_only_where_they_are_asked_for(run: Run) -> None:
    ledger = run.ledger().to_pylist()
    fetched = [row for row in ledger if row["status"] == "success"]
    assert [image.key for image in run.images(dropped=True)] == [row["key"] for row in fetched]
    dropped = next(row for row in fetched if row["reason"] == "aesthetic_v2_below_min")
    assert list(run.images([dropped["key"]])) == []
    (image,) = run.images([dropped["key"], "0" * 16], dropped=True)
    assert (image.key, image.facts["reason"]) == (dropped["key"], "aesthetic_v2_below_min")


def test_some_images_open_the_tars_that_hold_them_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    original = RunStore.open

    def noted(self: RunStore, path: str) -> Any:
        opened.append(path)
        return original(self, path)

    monkeypatch.setattr(RunStore, "open", noted)
    last = keys(run.kept(["key"]))[-1]
    assert [image.key for image in run.images([last])] == [last]
    assert [path[:13] for path in opened if path.endswith(".tar")] == ["images/000002"]


def test_a_row_is_found_by_key_and_by_the_url_of_the_list(run: Run) -> None:
    url = "https://user:secret@host.example/5.jpg"
    kept = run.kept().to_pylist()[-1]
    assert run.row(kept["key"]) == kept
    number = int(kept["caption"].removeprefix("picture "))
    assert run.row(url.replace("5", str(number))) == kept
    refused = run.row(
        next(row["key"] for row in run.ledger().to_pylist() if row["reason"] == REJECT)
    )
    assert (refused["kept"], refused["reason"]) == (False, REJECT)
    with pytest.raises(NotInRunError, match="no row of its list has the URL or key") as caught:
        run.row("https://user:secret@host.example/none.jpg")
    assert "secret" not in str(caught.value)


def test_of_rows_with_one_url_a_kept_one_is_found(run: Run) -> None:
    rows = [row for row in run.ledger().to_pylist() if row["caption"] == "picture 0"]
    assert [row["reason"] for row in rows][1:] == ["duplicate_row"]  # the list's last row
    assert run.row(rows[1]["url"])["row"] == 0


def test_columns_are_chosen_and_named_where_they_are_not_there(run: Run) -> None:
    assert run.ledger(["reason", "key"]).column_names == ["reason", "key"]
    assert run.ledger(["kept"])["kept"].to_pylist() == run.ledger()["kept"].to_pylist()
    assert run.kept(["aesthetic_v2"]).column_names == ["aesthetic_v2"]
    assert run.ledger(["source_width"])["source_width"][0].as_py() is not None
    with pytest.raises(NotInRunError, match="no column beauty"):
        run.ledger(["key", "beauty"])


def test_other_tables_of_the_run(run: Run, selected: list[dict[str, Any]]) -> None:
    assert run.table("ledger").to_pylist() == selected
    assert run.table("facts/download", ["key"]).num_rows == NUM_ROWS
    assert run.table("latents/rejects")["reason"].to_pylist() == [REJECT]
    with pytest.raises(NotInRunError, match="download wrote nothing into 'metadata'"):
        run.table("metadata")


def test_a_shard_of_latents_that_was_given_up_has_no_kept_rows(tmp_path: Path) -> None:
    store = build_run(tmp_path)
    encode = synthetic_run.IDENTITIES["encode"]
    kept = open_run(store.root).table("ledger")["kept"].to_pylist().count(True)
    store.delete(manifest_path("encode", encode.fingerprint, 0))
    synthetic_run.quarantine(store, "encode", 0, rows_in=kept)
    group = {"encode": {"download_shards_per_file": 3}}
    synthetic_run.edit_json(store, "run.json", lambda tree: tree["config"].update(group))
    synthetic_run.complete(store)
    run = open_run(store.root)
    lost = [row for row in run.ledger().to_pylist() if row["reason"] == "shard_quarantined"]
    assert len(lost) == kept
    assert {row["error_message"] for row in lost} == {"boom"}
    assert run.kept().num_rows == 0
    assert [*run.images()] == [*run.latents()] == []


def test_rows_of_a_download_shard_that_was_given_up_are_there(tmp_path: Path) -> None:
    run = open_run(build_run(tmp_path, lost={"download": 1}).root)
    reasons = run.ledger(["shard_id", "reason"]).to_pylist()
    assert len(reasons) == NUM_ROWS
    assert {row["reason"] for row in reasons if row["shard_id"] == 1} == {"shard_quarantined"}
    assert {image.facts["shard_id"] for image in run.images()} == {0, 2}


def test_only_the_current_revision_is_read(tmp_path: Path) -> None:
    """Another cut of select lies beside, half a revision with other indexes."""
    store = build_run(tmp_path)
    before = open_run(store.root)
    kept, first = keys(before.kept()), next(before.images())
    source = write_list(tmp_path)
    harsh = SelectConfig(thresholds={"aesthetic_v2": Threshold(min=6.0)})
    identity = replace(synthetic_run.IDENTITIES["select"], options={"select": harsh.identity()})
    step = synthetic_run.select(store, source, config=harsh)
    replace(step, fingerprint=identity.fingerprint).run(lambda manifest: None)
    for folder in ("ledger", "images", "latents"):
        store.replace(f"{folder}/shards.txt", b"")  # what readers of other programs start from
    assert keys(open_run(store.root).kept()) == kept  # not complete, so not current
    complete_step(store, identity, num_shards=3, folders=["ledger"], later=["encode"])
    now = open_run(store.root)
    assert 0 < now.kept().num_rows < len(kept)
    assert [image.key for image in now.images()] == keys(now.kept())
    with pytest.raises(IncompleteRunError, match="encode is not complete"):
        now.latents()
    assert keys(before.kept()) == kept  # a reader keeps the revision that it opened
    assert next(before.images()).content == first.content


def test_a_step_that_is_not_complete_is_named(tmp_path: Path) -> None:
    store = build_run(tmp_path)
    withdraw_step(store, "select", folders=["ledger"], later=["encode"])
    run = open_run(store.root)
    for read in (run.ledger, run.kept, lambda: [*run.images()], lambda: run.row("0" * 16)):
        with pytest.raises(IncompleteRunError, match="select is not complete"):
            read()
    withdraw_step(store, "download", folders=["images"], later=["score"])
    assert "nothing is complete" in repr(open_run(store.root))
    with pytest.raises(IncompleteRunError, match="no step is complete"):
        open_run(store.root).paths("images")


@pytest.mark.parametrize("folder", ["ledger", "images"])
@pytest.mark.parametrize("change", ["missing", "cut", "flipped"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, folder: str, change: str) -> None:
    store = build_run(tmp_path)
    run = open_run(store.root)
    path = Path(store.absolute(run.paths(folder)[1]))
    content = path.read_bytes()
    if change == "missing":
        path.unlink()
    elif change == "cut":
        path.write_bytes(content[: len(content) // 3])
    else:
        at = 40 if folder == "ledger" else 148  # within the first page; the header's checksum
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    with pytest.raises(ShardError, match=path.name):
        _ = [*run.images()]


def test_a_tar_without_the_image_of_a_kept_row_is_named(tmp_path: Path) -> None:
    store = build_run(tmp_path)
    second = Path(store.absolute(open_run(store.root).paths("images")[1]))
    forger = synthetic_run.Forger(store)
    forger.file("download", 0, "images", lambda tar: tar.write_bytes(second.read_bytes()))
    run = open_run(store.root)
    first = run.paths("images")[0]
    with pytest.raises(ShardError, match=f"{first}: no image of .*, which is kept"):
        _ = [*run.images()]


def test_a_cache_of_another_revision_is_not_taken_for_this_one(tmp_path: Path) -> None:
    store = build_run(tmp_path)
    run = open_run(store.root)
    content = store.read_bytes(run.paths("latents")[0]) + bytes(512)
    digest = hashlib.sha256(content).hexdigest()
    store.replace("latents/000000-other.tar", content)
    index = pq.read_table(Path(store.absolute("latents/index.parquet"))).to_pylist()
    index[0] |= {"path": "latents/000000-other.tar", "sha256": digest, "num_bytes": len(content)}
    pq.write_table(pa.Table.from_pylist(index), store.absolute("latents/index.parquet"))
    store.replace("latents/shards.txt", b"latents/000000-other.tar\n")
    with pytest.raises(ShardError, match="changed since the run was opened"):
        run.latents()


def test_a_store_is_read_with_its_options_and_shows_none(
    tmp_path: Path, s3_endpoint: S3Endpoint, run: Run
) -> None:
    root = f"s3://{s3_endpoint.bucket}/read"
    build_run(tmp_path, store=RunStore(root, s3_endpoint.storage_options))
    remote = open_run(root, storage_options=s3_endpoint.storage_options)
    assert remote.ledger().equals(run.ledger())
    assert [image.content for image in remote.images()] == [i.content for i in run.images()]
    assert [sample.key for sample in remote.latents()] == keys(run.kept())
    assert remote.row(keys(run.kept())[0])["kept"]
    assert "testing" not in repr(remote)
    cache = open_cache(root, storage_options=s3_endpoint.storage_options)
    assert cache.path == f"{root}/_work/latents"
    assert cache.num_rows == run.kept().num_rows


def test_a_path_may_be_relative_and_what_is_no_run_is_refused(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(store.root).parent)
    assert open_run("run").path == store.root
    assert open_run(Path("run")).kept().num_rows
    assert open_cache("run").num_rows == open_run("run").kept().num_rows
    with pytest.raises(NotARunError, match="not a run"):
        open_run(tmp_path)
    with pytest.raises(StorageError, match="is a file"):
        open_run(Path(store.root) / "run.json")
    (tmp_path / "run.json").write_text(json.dumps({"job": "train", "config": {}}))
    with pytest.raises(NotARunError, match="a training"):
        open_run(tmp_path)
