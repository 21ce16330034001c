"""Checks on stored images."""

import io
import tarfile
from pathlib import Path

from PIL import Image

from jobs.demo.pixels import describe_other_images, read_images
from pipelines.run.store import RunStore


def store_with(folder: Path, images: dict[str, Image.Image]) -> RunStore:
    """A run that holds these images in one tar, and another tar that no list names."""
    (folder / "images").mkdir()
    (folder / "images/shards.txt").write_text("images/000000-aa.tar\n")
    (folder / "images/000000-bb.tar").write_bytes(b"left over")
    with tarfile.open(folder / "images/000000-aa.tar", "w") as archive:
        for key, image in images.items():
            stream = io.BytesIO()
            image.save(stream, "JPEG")
            for name, content in ((f"{key}.jpg", stream.getvalue()), (f"{key}.txt", b"text")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return RunStore(str(folder), flat=True)


def test_images_of_another_size_or_mode_are_named(tmp_path: Path):
    store = store_with(
        tmp_path,
        {
            "right": Image.new("RGB", (64, 64)),
            "grey": Image.new("L", (64, 64)),
            "wide": Image.new("RGB", (80, 64)),
        },
    )
    assert describe_other_images(store, size=64) == ["grey: L 64x64", "wide: RGB 80x64"]


def test_only_the_asked_images_are_read(tmp_path: Path):
    store = store_with(tmp_path, {k: Image.new("RGB", (16, 16)) for k in ("a", "b", "c")})
    found = read_images(store, ["c", "a", "missing"])
    assert sorted(found) == ["a", "c"]
    assert found["a"].startswith(b"\xff\xd8")
