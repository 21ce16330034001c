"""Tars: samples in order, images as stored, and nothing a hostile tar claims is believed."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.plan import PlanError
from pipelines.sources import SourceError, tar_samples
from sd_core.tar_members import iterate_members

JPEG = b"\xff\xd8 not really \xff\xd9"


def _write_tar(
    path: Path, members: list[tuple[str, bytes]], kind: Any = tarfile.PAX_FORMAT
) -> None:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _sample(name: str, *, caption: str | None = "c", **fields: object) -> list[tuple[str, bytes]]:
    members = [(f"{name}.jpg", JPEG + name.encode())]
    if caption is not None:
        members.append((f"{name}.txt", caption.encode()))
    return [*members, (f"{name}.json", json.dumps(fields).encode())] if fields else members


def _images(planned: Any) -> list[list[tuple[int, bytes]]]:
    plan, source = planned.plan, planned.source
    return [list(source.read_images(plan.shard(shard))) for shard in range(plan.num_shards)]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_are_rows_with_captions_urls_and_fields(
    plan_path: Any, tmp_path: Path, kind: int
) -> None:
    long = "d/" * 60 + "n" * 90
    members = [
        *_sample("000", caption="first", url="http://a/0", width=5),
        *_sample("001", caption=None, caption_="x", caption2="y"),
        *_sample(long if kind != tarfile.USTAR_FORMAT else "002", caption="é"),
        ("003.json", b'{"url": "http://a/3", "caption": "from json", "Width": "wide"}'),
        ("003.png", b"png"),
        ("README", b"no sample"),
        ("._003.jpg", b"no sample either"),
    ]
    _write_tar(tmp_path / "a.tar", members, kind)
    planned = plan_path(tmp_path / "a.tar", rows_per_shard=2)
    rows = planned.rows()
    assert rows["url"].to_pylist() == ["http://a/0", None, None, "http://a/3"]
    assert rows["caption"].to_pylist() == ["first", None, "é", "from json"]
    assert rows["reason"].to_pylist() == [None] * 4
    assert rows["source_width"].to_pylist() == [5, None, None, None]
    assert rows["source_width_2"].to_pylist() == [None, None, None, "wide"]
    first, second = _images(planned)
    assert first == [(0, JPEG + b"000"), (1, JPEG + b"001")]
    assert second[0][0] == 0
    assert second[1] == (1, b"png")
    assert len(set(rows["key"].to_pylist())) == 4


def test_sample_without_a_usable_image_is_member_missing(
    plan_path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_samples, "MAX_IMAGE_BYTES", 1000)
    members = [
        ("a.txt", b"caption only"),
        ("b.jpg", b""),
        ("c.cls", b"a class"),
        ("d.jpg", b"x" * 1001),
        ("e.jpg", b"x" * 1000),
    ]
    _write_tar(tmp_path / "a.tar", members)
    planned = plan_path(tmp_path / "a.tar", rows_per_shard=10)
    rows = planned.rows()
    assert rows["reason"].to_pylist() == ["member_missing"] * 4 + [None]
    assert rows["error_message"].to_pylist()[3] == "image member above 1000 bytes"
    assert [row for row, _ in _images(planned)[0]] == [4]


def test_hostile_members_are_passed_over(plan_path: Any, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "pickle-ran",))

    path = tmp_path / "in" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for kind, name in (
            (tarfile.SYMTYPE, "a.jpg"),
            (tarfile.LNKTYPE, "a.png"),
            (tarfile.FIFOTYPE, "a.webp"),
            (tarfile.CHRTYPE, "a.jpeg"),
            (tarfile.DIRTYPE, "a.txt"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name, content in (
            ("../../escaped.jpg", JPEG),
            ("/absolute.jpg", JPEG),
            ("b.pyd", pickle.dumps(Bomb())),
            ("b.pth", pickle.dumps(Bomb())),
            ("b.json", b"[" * 100_000),
            ("b.jpg", JPEG),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    planned = plan_path(path, rows_per_shard=10)
    assert planned.rows()["reason"].to_pylist() == [None, None, None]
    assert _images(planned) == [[(0, JPEG), (1, JPEG), (2, JPEG)]]
    found = {path.name for path in tmp_path.rglob("*") if "run" not in path.parts}
    assert found.isdisjoint({"pickle-ran", "escaped.jpg", "absolute.jpg"})


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


GOOD = _header("a.jpg", 4) + b"abcd" + bytes(508)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD, "has no end mark"),
        (GOOD + _header("b.jpg", 1 << 40), "cut off within the member"),
        (GOOD[:600], "cut off within the member"),
        (GOOD + b"\x01" * 512, "no tar header at byte 1024"),
        (_header("@LongLink", 1 << 33, tarfile.GNUTYPE_LONGNAME), "claims 8589934592 bytes"),
        (_header("x", 1 << 33, tarfile.XHDTYPE), "claims 8589934592 bytes"),
        (b"x" * 100, "cut off at byte 0"),
        (bytes(1024), "no rows"),
    ],
)
def test_torn_or_lying_tar_is_an_error_that_names_it(
    plan_path: Any, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(PlanError, match=rf"a\.tar: .*{message}"):
        plan_path(tmp_path / "a.tar")


def test_negative_size_is_refused() -> None:
    header = bytearray(_header("a.jpg", 0))
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    members = iterate_members(io.BytesIO(bytes(header)), fault=SourceError)
    with pytest.raises(SourceError, match="claims -1 bytes"):
        next(members)


@pytest.mark.parametrize("kind", ["tar", "tgz"])
def test_ranges_of_a_compressed_tar_hold_the_same_rows(
    plan_path: Any, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    with tarfile.open(path, "w:gz" if kind == "tgz" else "w") as tar:
        for number in range(7):
            for name, content in _sample(f"{number}", caption=f"c{number}"):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    planned = plan_path(path, rows_per_shard=3)
    assert planned.rows()["caption"].to_pylist() == [f"c{number}" for number in range(7)]
    assert [len(images) for images in _images(planned)] == [3, 3, 1]


def test_real_tars_of_clip_retrieval_are_read(plan_path: Any, shared_data: Path) -> None:
    planned = plan_path(f"{shared_data}/webdataset/clip_retrieval_image*.tar", rows_per_shard=10)
    assert [len(images) for images in _images(planned)] == [4, 3, 2, 2]
    rows = planned.rows()
    # The same names in another tar are other rows: rows without a URL are named by their file.
    assert len(set(rows["key"].to_pylist())) == rows.num_rows == 11
    assert all(image[:2] == b"\xff\xd8" for images in _images(planned) for _, image in images)


@pytest.mark.parametrize("name", ["wds_sample.tgz", "wds_mpdata.tar", "wds_compressed.tar"])
def test_other_real_tars_lose_no_sample(plan_path: Any, shared_data: Path, name: str) -> None:
    path = shared_data / "webdataset" / name
    with tarfile.open(path) as tar:
        names = {m.name.split(".")[0] for m in tar.getmembers() if m.isfile() and "." in m.name}
    planned = plan_path(path, rows_per_shard=50)
    rows = planned.rows()
    assert rows.num_rows == len(names)
    num_images = sum(len(images) for images in _images(planned))
    assert num_images == rows["reason"].null_count
    assert num_images == (rows.num_rows if name == "wds_sample.tgz" else 0)


def test_img2dataset_folder_gives_failures_and_images(plan_path: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    statuses = ["success", "failed_to_download", "success", "failed_to_resize", "<script>", None]
    rows = {
        "url": [f"http://a/{n}" for n in range(6)],
        "caption": [None, "b", "c", "d", "e", "f"],
        "key": [f"00000000{n}" for n in range(6)],
        "status": statuses,
        "error_message": [None, "HTTP Error 404", None, "bad", None, None],
        "width": [512, None, 512, None, None, None],
    }
    pq.write_table(pa.table(rows), folder / "00000.parquet")
    _write_tar(folder / "00000.tar", [*_sample("000000000"), *_sample("000000001")])
    (folder / "00000_stats.json").write_text("{}")
    planned = plan_path(folder, rows_per_shard=4)
    read = planned.rows()
    failed = "source_failed"
    assert read["reason"].to_pylist() == [None, failed, None, failed, failed, failed]
    assert read["error_message"].to_pylist() == [
        None,
        "img2dataset: failed_to_download",
        None,
        "img2dataset: failed_to_resize",
        "img2dataset: an unknown status",
        "img2dataset: an unknown status",
    ]
    assert read["source_width"].to_pylist()[:2] == [512, None]
    # Row 2's image is not in the tar, row 1 failed: the step calls row 2 member_missing.
    assert _images(planned) == [[(0, JPEG + b"000000000")], []]


def test_parquet_that_img2dataset_did_not_write_is_refused(plan_path: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["a"], "caption": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(PlanError, match="no 'status' and 'key' columns"):
        plan_path(tmp_path / "a.parquet", format="img2dataset")


def test_a_member_whose_size_stands_in_its_extended_header_is_passed_over_whole() -> None:
    large = tarfile.TarInfo("big.npy")
    large.size = 3000
    large.pax_headers = {"size": "3000"}
    header = bytearray(large.tobuf(tarfile.PAX_FORMAT))
    header[-512 + 124 : -512 + 136] = b"00000000000\0"  # as where it does not fit
    header[-512 + 148 : -512 + 156] = b" " * 8
    header[-512 + 148 : -512 + 156] = b"%06o\0 " % sum(header[-512:])
    content = bytes(header) + bytes(3072) + GOOD + bytes(1024)
    members = iterate_members(io.BytesIO(content), fault=SourceError, max_bytes=lambda _: 10)
    assert [(member.name, member.num_bytes) for member in members] == [
        ("big.npy", 3000),
        ("a.jpg", 4),
    ]
