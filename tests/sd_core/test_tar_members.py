"""The one reader and the one writer of tars."""

import io
import tarfile
from pathlib import Path

import pytest
import webdataset as wds

from sd_core.tar_members import SampleTarWriter, iterate_members, iterate_tar_samples

SAMPLES = {
    f"{number:016x}": {
        "jpg": bytes([number]) * 700 * number,
        "json": b"{}",
        "txt": b"x" * 512 * number,
    }
    for number in range(5)
}


class DamagedError(Exception):
    pass


def write(path: Path, *, extended: bool = False) -> Path:
    with SampleTarWriter(path, extended=extended) as tar:
        for key, files in SAMPLES.items():
            tar.write(key, files)
    return path


@pytest.mark.parametrize("extended", [False, True])
def test_its_bytes_are_webdatasets(tmp_path: Path, extended: bool) -> None:
    theirs = io.BytesIO()
    options = {"mtime": 0.0} if extended else {"mtime": 0, "user": "", "group": ""}
    with wds.TarWriter(theirs, **options) as tar:
        for key, files in SAMPLES.items():
            tar.write({"__key__": key, **files})
    ours = write(tmp_path / "ours.tar", extended=extended)
    assert ours.read_bytes() == theirs.getvalue()


def test_samples_come_back_and_copied_members_keep_their_headers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar")
    with path.open("rb") as file:
        assert {s.key: s.files for s in iterate_tar_samples(file, fault=DamagedError)} == SAMPLES
    with path.open("rb") as file, SampleTarWriter(tmp_path / "copy.tar") as tar:
        for member in iterate_members(file, fault=DamagedError):
            tar.copy(member)
    assert (tmp_path / "copy.tar").read_bytes() == path.read_bytes()


def test_a_name_too_long_for_a_tar_leaves_nothing_of_its_sample(tmp_path: Path) -> None:
    with SampleTarWriter(tmp_path / "a.tar") as tar:
        tar.write("a", {"txt": b"x"})
        with pytest.raises(ValueError, match="too long"):
            tar.write("b" * 96, {"txt": b"x", "latents.npy": b"y"})
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["a.txt"]


@pytest.mark.parametrize("seek", [False, True])
def test_places_are_those_of_tarfile_and_no_cut_goes_unseen(tmp_path: Path, seek: bool) -> None:
    whole = write(tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        places = {m.name: (m.offset_data, m.size) for m in archive}
    end = max(start + size for start, size in places.values())

    def walk(content: bytes) -> dict[str, tuple[int, int]]:
        members = iterate_members(
            io.BytesIO(content), fault=DamagedError, max_bytes=lambda _: 0, seek=seek
        )
        return {member.name: (member.data_byte, member.num_bytes) for member in members}

    assert walk(whole) == places
    for cut in range(0, end + 1, 256):
        with pytest.raises(DamagedError, match="cut off"):
            walk(whole[:cut])


@pytest.mark.parametrize("name", ["folder/a.txt", "a"])
def test_what_is_no_samples_file_is_named(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with (
        (tmp_path / "a.tar").open("rb") as file,
        pytest.raises(DamagedError, match=f"member '{name}' is not a sample's file"),
    ):
        list(iterate_tar_samples(file, fault=DamagedError))
