"""Each test breaks one promise of a valid run; verify must say exactly that."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jobs.bench.s3_emulator import S3Endpoint
from jobs.verify import main
from pipelines.run.manifest import manifest_path
from pipelines.run.store import RunStore
from pipelines.run.stored_json import write_json
from pipelines.verify import Fault, NotARunError, Note, verify_run
from tests.pipelines.synthetic_run import (
    Forger,
    build_run,
    complete,
    edit_json,
    fingerprint,
    renew_digests,
)


@pytest.fixture(scope="module")
def valid_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_run(tmp_path_factory.mktemp("valid")).root)


@pytest.fixture
def store(valid_run: Path, tmp_path: Path) -> RunStore:
    shutil.copytree(valid_run, tmp_path / "run")
    return RunStore(str(tmp_path / "run"))


@pytest.fixture
def forger(store: RunStore) -> Forger:
    return Forger(store)


def faults(store: RunStore, *, deep: bool) -> list[str]:
    """What is wrong inside; digests alone are `tests/contracts/test_damage.py`'s."""
    renew_digests(store)
    return [str(found) for found in verify_run(store, deep=deep) if isinstance(found, Fault)]


def notes(store: RunStore) -> list[str]:
    return [str(found) for found in verify_run(store, deep=False) if isinstance(found, Note)]


def assert_only(found: list[str], *parts: str) -> None:
    """Every fault holds one of the parts, and every part is in some fault."""
    assert found, "nothing was found"
    for part in parts:
        assert any(part in line for line in found), (part, found)
    for line in found:
        assert any(part in line for part in parts), line


def flip_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def rewrite_tar(
    path: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]
) -> None:
    with tarfile.open(path) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]
    with tarfile.open(path, "w") as archive:
        for name, content in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def set_member(suffix: str, content: bytes) -> Callable[[Path], None]:
    """Give the first member with this suffix other content."""

    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        at = next(n for n, (name, _) in enumerate(members) if name.endswith(suffix))
        members[at] = (members[at][0], content)
        return members

    return lambda path: rewrite_tar(path, change)


def encoded(size: tuple[int, int], *, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("deep", [False, True])
def test_valid_run_has_no_faults(store: RunStore, deep: bool) -> None:
    assert list(verify_run(store, deep=deep)) == []


def test_command_exits_0_1_and_2(
    store: RunStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([store.root, "--deep"]) == 0
    assert capsys.readouterr().out == ""
    store.delete("ledger/shards.txt")
    assert main([store.root]) == 1
    assert capsys.readouterr().out == "_work/ledger/shards.txt: missing, expected 3 path(s)\n"
    assert main([str(tmp_path)]) == 2
    assert "not a run" in capsys.readouterr().err
    assert main(["relative/run"]) == 2
    assert "absolute path" in capsys.readouterr().err


def test_folder_without_records_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(NotARunError, match=r"run\.json"):
        list(verify_run(RunStore(str(tmp_path)), deep=False))


def test_run_without_a_complete_step_is_noted(store: RunStore) -> None:
    write_json(store, "revision.json", {"revision": 0, "steps": {}})
    assert faults(store, deep=True) == []
    assert notes(store) == [
        "revision.json: no step is complete yet",
        "lists/: readers find an earlier revision: a job goes on, or was killed",
    ]


def test_lost_revision_is_a_fault(store: RunStore) -> None:
    store.delete("revision.json")
    assert_only(faults(store, deep=False), "revision.json: missing")


def test_held_lease_is_noted(store: RunStore) -> None:
    store.replace("lease.json", b"{}")
    assert any("a job holds this run" in note for note in notes(store))


# Records -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("run.json", "run.json: not JSON"),
        ("revision.json", "revision.json: not JSON"),
        ("plan/plan.json", "plan: "),
        ("plan/shards.parquet", "plan: "),
    ],
)
def test_torn_record_is_found(store: RunStore, path: str, part: str) -> None:
    content = store.read_bytes(path)
    store.replace(path, content[: len(content) // 2])
    assert_only(faults(store, deep=False), part)


@pytest.mark.parametrize("path", ["run.json", "plan/plan.json", "plan/shards.parquet"])
def test_missing_record_is_found(store: RunStore, path: str) -> None:
    store.delete(path)
    assert_only(faults(store, deep=False), "missing")


def test_damaged_settled_rows_are_found(store: RunStore) -> None:
    path = next(Path(store.absolute("plan/settled")).iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    assert_only(faults(store, deep=True), "plan/settled")


def test_revision_counts_that_its_manifests_do_not_give_are_found(store: RunStore) -> None:
    def change(tree: dict) -> None:
        tree["steps"]["download"]["kept"] += 1
        tree["steps"]["download"]["dropped"]["http_not_found"] -= 1

    edit_json(store, "revision.json", change)
    found = faults(store, deep=False)
    assert_only(found, "revision.json: download: kept 18, expected 17", "'http_not_found': 1")


def test_step_that_is_complete_without_its_parent_is_found(store: RunStore) -> None:
    edit_json(store, "revision.json", lambda tree: tree["steps"].pop("download"))
    found = faults(store, deep=False)
    assert_only(
        found,
        "revision.json: score: complete without download",
        "revision.json: select: complete without download",
    )


def test_step_that_run_json_does_not_record_is_found(store: RunStore) -> None:
    edit_json(store, "run.json", lambda tree: tree["steps"].pop("select"))
    assert_only(faults(store, deep=False), "run.json: no options of the completed step select")


def test_encode_that_read_other_rows_than_select_kept_is_found(store: RunStore) -> None:
    def change(tree: dict) -> None:
        tree["rows_in"] -= 1
        tree["dropped"] = {}

    Forger(store).manifest("encode", 0, change)
    complete(store)
    found = faults(store, deep=False)
    assert_only(found, "revision.json: encode: 7 rows in, expected select's kept rows, 8", "1 rows")


# Manifests, files and indexes ----------------------------------------------------------------


def test_missing_manifest_is_found(store: RunStore) -> None:
    path = manifest_path("score", fingerprint("score"), 1)
    store.delete(path)
    assert_only(faults(store, deep=False), f"{path}: missing")


@pytest.mark.parametrize("cut", [0, 40])
def test_torn_manifest_is_found(store: RunStore, cut: int) -> None:
    path = manifest_path("download", fingerprint("download"), 1)
    store.replace(path, store.read_bytes(path)[:cut])
    assert_only(faults(store, deep=False), f"{path}: not a manifest")


def test_manifest_of_another_shard_is_found(store: RunStore) -> None:
    source = manifest_path("download", fingerprint("download"), 0)
    path = manifest_path("download", fingerprint("download"), 1)
    store.replace(path, store.read_bytes(source))
    assert_only(faults(store, deep=False), f"{path}: is the manifest of")


def test_manifest_whose_counts_do_not_add_up_is_found(store: RunStore, forger: Forger) -> None:
    forger.manifest("download", 1, lambda tree: tree.update(kept=tree["kept"] - 1))
    assert_only(faults(store, deep=False), "8 rows in, but")


def test_reason_outside_the_closed_list_is_found(store: RunStore, forger: Forger) -> None:
    def change(tree: dict) -> None:
        tree["dropped"]["bad_luck"] = tree["dropped"].pop("http_not_found")

    forger.manifest("download", 1, change)
    complete(store)
    found = faults(store, deep=False)
    assert_only(found, "dropped for 'bad_luck'", "http_not_found, expected 0")


def test_rows_of_download_that_are_not_the_plans_are_found(store: RunStore, forger: Forger) -> None:
    def change(tree: dict) -> None:
        tree["rows_in"] -= 1
        tree["dropped"] = {
            reason: count for reason, count in tree["dropped"].items() if reason != "url_missing"
        }

    forger.manifest("download", 0, change)
    complete(store)
    found = faults(store, deep=False)
    assert_only(found, "7 rows in, expected the plan's rows, 8", "url_missing", "8 rows recorded")


def test_score_that_read_other_rows_than_download_kept_is_found(
    store: RunStore, forger: Forger
) -> None:
    forger.manifest("score", 1, lambda t: t.update(rows_in=t["rows_in"] - 1, kept=t["kept"] - 1))
    complete(store)
    found = faults(store, deep=False)
    assert_only(found, "rows in, expected download's kept rows", "rows recorded")


@pytest.mark.parametrize(
    ("step", "folder"),
    [
        ("download", "images"),
        ("download", "facts/download"),
        ("score", "facts/score"),
        ("select", "ledger"),
        ("encode", "latents"),
        ("encode", "latents/rejects"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_deleted_file_is_found_once(
    store: RunStore, forger: Forger, step: str, folder: str, deep: bool
) -> None:
    path = forger.path(step, 0, folder)
    path.unlink()
    found = [line for line in faults(store, deep=deep) if f"{folder}/{path.name}: missing" in line]
    assert len(found) == 1


def test_file_of_another_size_is_found(store: RunStore, forger: Forger) -> None:
    path = forger.path("download", 0, "images")
    path.write_bytes(path.read_bytes() + b"\0")
    assert_only(faults(store, deep=False), f"_work/images/{path.name}: ")


def test_foreign_line_in_shards_txt_is_found(store: RunStore) -> None:
    lines = store.read_bytes("images/shards.txt") + b"images/000009-0123456789abcdef.tar\n"
    store.replace("images/shards.txt", lines)
    assert_only(faults(store, deep=False), "images/shards.txt: lists 'images/000009-")


def test_missing_and_swapped_lines_in_shards_txt_are_found(store: RunStore) -> None:
    lines = store.read_bytes("images/shards.txt").splitlines(keepends=True)
    store.replace("images/shards.txt", b"".join(lines[1:]))
    assert_only(faults(store, deep=False), "images/shards.txt: does not list images/000000-")
    store.replace("images/shards.txt", b"".join(reversed(lines)))
    assert_only(faults(store, deep=False), "images/shards.txt: files out of order")


def test_index_that_differs_from_the_manifests_is_found(store: RunStore, forger: Forger) -> None:
    index = Path(store.absolute("ledger/index.parquet"))
    complete_index = index.read_bytes()
    forger.manifest("select", 1, lambda tree: tree["files"][0].update(sha256="0" * 64))
    found = faults(store, deep=False)
    assert_only(found, "ledger/index.parquet: (1, ", "a file named", "lists/files.parquet")
    index.write_bytes(complete_index[:-9])
    assert any("ledger/index.parquet: cannot be read" in line for line in faults(store, deep=False))


def test_quarantined_shard_is_a_note_and_its_rows_are_counted(
    store: RunStore, forger: Forger
) -> None:
    def quarantine(tree: dict) -> None:
        kept = tree["kept"]
        tree |= {"files": [], "kept": 0, "quarantined": "boom"}
        tree["dropped"] = {"shard_quarantined": tree["rows_in"]} if kept else {}

    forger.manifest("encode", 0, quarantine)
    complete(store)
    assert faults(store, deep=True) == []
    assert notes(store) == ["encode shard 0: quarantined"]
    forger.manifest("encode", 0, lambda tree: tree.update(dropped={"latents_not_finite": 8}))
    complete(store)
    assert_only(faults(store, deep=False), "quarantined with 0 of 8 rows under shard_quarantined")


@pytest.mark.parametrize("step", ["download", "score"])
@pytest.mark.parametrize("deep", [False, True])
def test_run_with_a_shard_given_up_early_verifies(tmp_path: Path, step: str, deep: bool) -> None:
    store = build_run(tmp_path, lost={step: 1})
    assert faults(store, deep=deep) == []
    assert f"{step} shard 1: quarantined" in notes(store)


def test_rows_of_a_quarantined_shard_that_the_ledger_does_not_count_are_found(
    tmp_path: Path,
) -> None:
    store = build_run(tmp_path, lost={"score": 1})

    def change(tree: dict) -> None:
        tree["dropped"]["duplicate_bytes"] = tree["dropped"].pop("shard_quarantined")

    Forger(store).manifest("select", 1, change)
    complete(store)
    assert_only(faults(store, deep=False), "0 rows shard_quarantined, expected 7")


def test_run_on_an_object_store_verifies_and_a_lost_object_is_found(
    tmp_path: Path, s3_endpoint: S3Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"s3://{s3_endpoint.bucket}/verified"
    store = build_run(tmp_path, store=RunStore(root, s3_endpoint.storage_options))
    assert main([root, "--deep"]) == 0  # the endpoint and keys come from the environment
    name = store.list_files("images")[1]
    store.delete(f"images/{name}")
    assert main([root, "--deep"]) == 1
    assert capsys.readouterr().out.startswith(f"_work/images/{name}: missing, expected ")


# Deep: bytes ---------------------------------------------------------------------------------


def test_flipped_bit_in_a_tar_is_found(store: RunStore, forger: Forger) -> None:
    path = forger.path("download", 0, "images")
    flip_bit(path, 700)
    assert faults(store, deep=False) == []
    assert any("sha256" in line for line in faults(store, deep=True))


def test_flipped_bit_in_a_parquet_page_is_found_by_hash_and_by_checksum(
    store: RunStore, forger: Forger
) -> None:
    path = forger.path("download", 0, "facts/download")
    flip_bit(path, 120)
    assert faults(store, deep=False) == []
    assert any("sha256" in line for line in faults(store, deep=True))
    forger.file("download", 0, "facts/download", lambda new: None)  # now with the right hash
    found = faults(store, deep=True)
    assert not any("sha256" in line for line in found)
    assert any("cannot be read" in line for line in found)


def test_tar_cut_at_a_member_boundary_is_found_even_with_the_right_hash(
    store: RunStore, forger: Forger
) -> None:
    def cut(path: Path) -> None:
        with tarfile.open(path) as archive:
            offset = archive.getmembers()[-3].offset
        path.write_bytes(path.read_bytes()[:offset])

    forger.file("download", 0, "images", cut)
    assert_only(faults(store, deep=True), "cannot be read", "2 samples missing")


def test_tar_without_its_last_sample_is_found(store: RunStore, forger: Forger) -> None:
    forger.file("download", 0, "images", lambda p: rewrite_tar(p, lambda members: members[:-3]))
    assert_only(faults(store, deep=True), "1 samples missing")


# Deep: images --------------------------------------------------------------------------------


def test_swapped_caption_is_found(store: RunStore, forger: Forger) -> None:
    forger.file("download", 0, "images", set_member(".txt", b"another picture"))
    assert_only(faults(store, deep=True), ".txt: caption 'another picture', expected 'picture 0'")


def test_json_that_contradicts_the_facts_is_found(store: RunStore, forger: Forger) -> None:
    content = json.dumps({"key": "0" * 16, "width": 33, "note": "s3://me:pw@bucket/a"}).encode()
    forger.file("download", 0, "images", set_member(".json", content))
    found = faults(store, deep=True)
    assert_only(found, ".json: key '0000", ".json: width 33, expected 32", "note holds a secret")
    assert "pw" not in "".join(found)


def test_torn_json_is_found(store: RunStore, forger: Forger) -> None:
    forger.file("download", 0, "images", set_member(".json", b'{"key":'))
    assert_only(faults(store, deep=True), ".json: not JSON")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (encoded((32, 16)), "(32, 16) pixels, expected (32, 32)"),
        (encoded((32, 32), mode="L"), "mode L, expected RGB"),
        (encoded((32, 32), mode="CMYK"), "mode CMYK, expected RGB"),
        (encoded((32, 32))[:-60], "cannot be decoded"),
        (b"GIF89a", "cannot be decoded"),
        (encoded((32, 32), exif=Image.Exif().tobytes() + b"\0"), "EXIF metadata, expected none"),
    ],
)
def test_wrong_image_is_found(store: RunStore, forger: Forger, content: bytes, part: str) -> None:
    forger.file("download", 0, "images", set_member(".jpg", content))
    assert_only(faults(store, deep=True), part)


def test_swapped_samples_are_found(store: RunStore, forger: Forger) -> None:
    forger.file("download", 0, "images", lambda p: rewrite_tar(p, lambda m: m[3:6] + m[:3] + m[6:]))
    assert_only(faults(store, deep=True), "sample 0 is row 1, expected the order of the facts")


def test_sample_without_a_row_and_sample_twice_are_found(store: RunStore, forger: Forger) -> None:
    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        foreign = [(f"{'f' * 16}{name[16:]}", content) for name, content in members[:3]]
        return [*members, *foreign, *members[:3]]

    forger.file("download", 0, "images", lambda path: rewrite_tar(path, change))
    assert_only(faults(store, deep=True), "'ffffffffffffffff' without a row", "a second time")


def test_sample_without_its_json_is_found(store: RunStore, forger: Forger) -> None:
    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        return [m for at, m in enumerate(members) if at >= 3 or not m[0].endswith(".json")]

    forger.file("download", 0, "images", lambda path: rewrite_tar(path, change))
    assert_only(faults(store, deep=True), "one image, txt and json")


def test_faults_of_one_file_are_cut_off_after_20() -> None:
    from pipelines.verify.fault import limit

    found = list(limit((Fault("a", str(n), "b") for n in range(50)), "a"))
    assert len(found) == 21
    assert str(found[-1]) == "a: 30 more faults, expected none"


# Deep: tables --------------------------------------------------------------------------------


def test_ledger_without_a_row_is_found(store: RunStore, forger: Forger) -> None:
    forger.table("select", 1, "ledger", lambda table: table.slice(1))
    found = faults(store, deep=True)
    assert_only(found, "7 rows", "row number or shard id", "dropped {", "6 rows")


@pytest.mark.parametrize(
    ("step", "folder", "column", "value", "part"),
    [
        ("download", "facts/download", "row", 7, "row number or shard id in 1 row(s)"),
        ("download", "facts/download", "shard_id", 7, "row number or shard id in 1 row(s)"),
        ("download", "facts/download", "key", "xyz", "key in 1 row(s)"),
        ("download", "facts/download", "status", "lost", "status in 1 row(s)"),
        ("download", "facts/download", "status", None, "status against reason"),
        ("download", "facts/download", "reason", "bad_luck", "an unknown reason"),
        ("download", "facts/download", "sha256", None, "sha256 in 1 row(s)"),
        ("download", "facts/download", "width", 31, "width in 1 row(s)"),
        ("download", "facts/download", "phash", "12", "phash in 1 row(s)"),
        ("download", "facts/download", "sharpness", -1.0, "sharpness in 1 row(s)"),
        ("download", "facts/download", "entropy", 8.5, "entropy in 1 row(s)"),
        ("download", "facts/download", "contrast", 200.0, "contrast in 1 row(s)"),
        ("download", "facts/download", "caption_chars", 1, "caption_chars against caption in 1"),
        ("download", "facts/download", "caption_words", 99, "caption_words against caption in 1"),
        ("download", "facts/download", "caption_language", "xx", "caption_language in 1 row(s)"),
        ("select", "ledger", "kept", False, "kept against reason in 1 row(s), first row 4"),
        ("select", "ledger", "rule", "a rule", "a rule at a kept row"),
        ("select", "ledger", "caption", "other", "caption 'other' at row 4"),
        ("select", "ledger", "aesthetic_v2", 3.5, "aesthetic_v2 3.5 at row"),
        ("select", "ledger", "punsafe", 0.5, "punsafe 0.5 at row"),
        ("select", "ledger", "sharpness", 3.5, "sharpness 3.5 at row"),
        ("select", "ledger", "source_width", 1, "source_width 1 at row 4"),
        ("score", "facts/score", "key", "0" * 16, "key '0000000000000000' at row 4"),
    ],
)
def test_wrong_value_in_a_table_is_found(
    store: RunStore, forger: Forger, step: str, folder: str, column: str, value: object, part: str
) -> None:
    forger.values(step, 0, folder, column, r4=value)
    assert any(part in line for line in faults(store, deep=True)), faults(store, deep=True)


def test_download_reason_that_the_ledger_changed_is_found(store: RunStore, forger: Forger) -> None:
    forger.values("select", 0, "ledger", "reason", r6="http_gone")
    found = faults(store, deep=True)
    assert_only(found, "reason 'http_gone' at row", "dropped {")


def test_row_the_plan_settled_otherwise_is_found(store: RunStore, forger: Forger) -> None:
    forger.values("download", 2, "facts/download", "reason", r4="key_collision")
    found = faults(store, deep=True)
    assert any("expected 'duplicate_row' as in the plan" in line for line in found)


def test_another_schema_is_found(store: RunStore, forger: Forger) -> None:
    forger.table("download", 0, "facts/download", lambda table: table.drop_columns("phash"))
    assert any("no column phash: string" in line for line in faults(store, deep=True))
    forger.table(
        "select", 0, "ledger", lambda table: table.append_column("extra", table["caption"])
    )
    assert any("column extra: string" in line for line in faults(store, deep=True))


def test_key_stored_in_two_shards_is_found(store: RunStore, forger: Forger) -> None:
    keys = []

    def take(table: pa.Table) -> pa.Table:
        keys.append(table["key"][0].as_py())
        return table

    forger.table("download", 0, "facts/download", take)
    forger.values("download", 1, "facts/download", "key", r0=keys[0])
    part = f"images: key {keys[0]}: stored twice, in shards 0 and 1"
    assert any(part in line for line in faults(store, deep=True))


def test_copies_among_the_kept_rows_are_found_only_where_none_may_be(
    store: RunStore, forger: Forger
) -> None:
    for step, folder in (("download", "facts/download"), ("select", "ledger")):
        for shard_id, row in ((0, "r4"), (1, "r4")):
            forger.values(step, shard_id, folder, "sha256", **{row: "ab" * 32})
    part = "ledger: sha256 abababababababab…: kept more than once, in shards 0 and 1"
    assert any(part in line for line in faults(store, deep=True))
    forger.values("select", 1, "ledger", "sha256", r4="ab" * 31 + "cd")
    assert not any("kept more than once" in line for line in faults(store, deep=True))
    forger.values("select", 1, "ledger", "sha256", r4="ab" * 32)

    def allow(tree: dict) -> None:
        tree["steps"]["select"]["options"]["select"]["duplicates"]["by"] = []

    edit_json(store, "run.json", allow)
    assert not any("kept more than once" in line for line in faults(store, deep=True))


def test_copy_that_names_no_kept_row_and_one_that_names_none_are_found(
    store: RunStore, forger: Forger
) -> None:
    def copy(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        gone = next(row for row in rows if not row["kept"])
        copies = [row for row in rows if row["kept"]][:2]
        for row, names in zip(copies, (gone["key"], None), strict=True):
            row |= {"kept": False, "reason": "duplicate_phash", "duplicate_of": names}
        return pa.Table.from_pylist(rows, schema=table.schema)

    forger.table("select", 1, "ledger", copy)
    found = faults(store, deep=True)
    assert any("not kept, expected a kept row that stands for its copies" in line for line in found)
    assert any("duplicate_of against reason in 1 row(s)" in line for line in found)


def test_options_of_a_cut_that_is_not_complete_are_noted(store: RunStore) -> None:
    edit_json(store, "run.json", lambda t: t["steps"]["select"].update(fingerprint="other"))
    assert faults(store, deep=True) == []
    assert notes(store) == [
        "run.json: select: its options are those of a revision not complete yet"
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("url", "https://me:hunter2@host.example/a.jpg"),
        ("final_url", "https://host.example/a.jpg?X-Amz-Signature=hunter2"),
        ("caption", "see https://me:hunter2@host.example/a.jpg"),
        ("error_message", "GET https://me:hunter2@host.example/a.jpg failed"),
    ],
)
def test_secret_in_a_column_is_found_and_not_printed(
    store: RunStore, forger: Forger, column: str, value: str
) -> None:
    forger.values("download", 0, "facts/download", column, r0=value)
    found = faults(store, deep=True)
    assert any(f"column {column} holds a secret in 1 row(s), first row 0" in x for x in found)
    assert "hunter2" not in "".join(found)


def test_a_secret_that_an_earlier_version_did_not_know_is_noted_and_no_fault(
    store: RunStore, forger: Forger
) -> None:
    secret = "https://host.imgix.net/a.jpg?w=64&s=0123456789abcdef0123456789abcdef"
    forger.values("download", 0, "facts/download", "url", r0=secret)

    def as_before(tree: dict[str, Any]) -> None:
        for step in tree["steps"].values():
            step["digests"] = {}

    edit_json(store, "revision.json", as_before)
    told = [each for each in verify_run(store, deep=True) if "secret" in str(each)]
    assert [type(each) for each in told] == [Note]
    assert "0123456789abcdef" not in str(told[0])


def test_secret_in_a_record_is_found_and_not_printed(store: RunStore, forger: Forger) -> None:
    secret = "s3://me:hunter2@bucket/list"
    edit_json(store, "run.json", lambda tree: tree["config"].update(source={"path": secret}))
    edit_json(store, "plan/plan.json", lambda tree: tree["files"][0].update(uri=secret))
    forger.manifest("download", 0, lambda tree: tree.update(inputs=secret))
    found = faults(store, deep=False)
    assert_only(found, "run.json", "plan/plan.json", "inputs holds a secret")
    assert "hunter2" not in "".join(found)


# Deep: latents -------------------------------------------------------------------------------


def test_kept_row_without_latents_is_found(store: RunStore, forger: Forger) -> None:
    def change(members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        renamed = [(f"{'f' * 16}{name[16:]}", content) for name, content in members[:5]]
        return [*renamed, *members[5:]]

    forger.file("encode", 0, "latents", lambda path: rewrite_tar(path, change))
    found = faults(store, deep=True)
    assert any("neither encoded nor rejected" in line for line in found)
    assert any("key ffffffffffffffff: encoded in shard 0, not kept" in line for line in found)


def test_reject_without_a_known_reason_is_found(store: RunStore, forger: Forger) -> None:
    forger.values("encode", 0, "latents/rejects", "reason", r0="http_gone")
    found = faults(store, deep=True)
    assert any("expected one of latents_not_finite" in line for line in found)


@pytest.mark.parametrize("name", ["spec.json", "empty_caption.safetensors"])
def test_missing_or_torn_cache_file_is_found(store: RunStore, name: str) -> None:
    content = store.read_bytes(f"latents/{name}")
    store.replace(f"latents/{name}", content[:-9])
    assert_only(faults(store, deep=False), f"latents/{name}: ")
    store.delete(f"latents/{name}")
    assert_only(faults(store, deep=False), f"latents/{name}: missing")


def test_spec_of_another_revision_is_found(store: RunStore) -> None:
    other = store.read_bytes("latents/spec.json").replace(b"0.5", b"0.25")
    store.replace(f"manifests/encode/{fingerprint('encode')}/spec.json", other)
    assert_only(faults(store, deep=False), "latents/spec.json: the spec of another revision")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.full((8, 4, 4), np.nan, np.float16), "latents with values that are not finite"),
        (np.zeros((8, 4, 4), np.float32), "latents is float32 (8, 4, 4), the spec says float16"),
        (np.zeros((4, 4, 4), np.float16), "latents is float16 (4, 4, 4), the spec says float16 (8"),
    ],
)
def test_wrong_latents_are_found(
    store: RunStore, forger: Forger, array: np.ndarray, part: str
) -> None:
    forger.file("encode", 0, "latents", set_member(".latents.npy", npy(array)))
    assert any(part in line for line in faults(store, deep=True))


def test_latents_cut_at_a_sample_are_found(store: RunStore, forger: Forger) -> None:
    forger.file("encode", 0, "latents", lambda p: rewrite_tar(p, lambda members: members[:-5]))
    assert_only(faults(store, deep=True), "6 rows, expected 7", "neither encoded nor rejected")


def test_memory_of_the_key_comparison_is_one_partition(tmp_path: Path) -> None:
    from pipelines.verify.keys import KeySpill

    generator = np.random.default_rng(0)
    spill, other = KeySpill(tmp_path, name="a"), KeySpill(tmp_path, name="b")
    values = generator.integers(0, 2**63, 5000)
    for shard_id in range(5):
        keys = [f"{value:016x}" for value in values[shard_id::5]]
        spill.add(shard_id, keys)
        other.add(shard_id, keys[1:])
    spill.add(9, [f"{values[7]:016x}"])
    [place] = spill.repeated()
    assert (place.key, place.shard_id, place.other_shard) == (f"{values[7]:016x}", 2, 9)
    missing = {place.key for place in spill.missing_from(other)}
    assert missing == {f"{value:016x}" for value in values[:5]}
    assert list(other.missing_from(spill)) == []
    assert len(list(tmp_path.glob("a-*"))) > 100
