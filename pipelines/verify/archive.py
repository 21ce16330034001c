"""Image archives against the facts: the same samples, in the same order, as they say."""

import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from PIL import Image

from pipelines.verify.fault import Fault, show
from sd_core.redact import redact_text

IMAGE_FORMATS: Final = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_END_OF_ARCHIVE = bytes(1024)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The consecutive members of a tar that share a key; extension to content."""

    key: str
    members: Mapping[str, bytes]


def read_samples(path: Path) -> Iterator[Sample]:
    """A WebDataset tar's samples in order; memory is that of one sample.

    Raises:
        tarfile.TarError: the archive is damaged, or holds something else than samples.
    """
    key, members = "", dict[str, bytes]()
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]
            stem, dot, extension = member.name.partition(".")
            if not member.isreg() or not dot or "/" in member.name:
                raise tarfile.TarError(f"member {member.name!r} is not a sample's file")
            stream = archive.extractfile(member)
            content = stream.read() if stream is not None else b""
            if stem != key or extension in members:
                if members:
                    yield Sample(key=key, members=members)
                key, members = stem, {}
            members[extension] = content
        if members:
            yield Sample(key=key, members=members)
        end = archive.offset
    with path.open("rb") as file:
        file.seek(end)
        if file.read(len(_END_OF_ARCHIVE)) != _END_OF_ARCHIVE:
            raise tarfile.TarError("no end-of-archive mark: cut off or damaged")


def check_archive(
    path: Path, stored: pa.Table, *, where: str, exif: bool = False
) -> Iterator[Fault]:
    """Samples and facts agree: keys and their order, pixels, caption, JSON.

    Args:
        path: The tar on local disk.
        stored: Facts of the rows that have an image.
        where: The tar's name in the run.
        exif: Whether the images may hold EXIF metadata: those that we made ourselves.
    """
    rows = stored.to_pylist()
    position = {row["key"]: at for at, row in enumerate(rows)}
    seen: set[int] = set()
    in_order = True
    try:
        for number, sample in enumerate(read_samples(path)):
            at = position.get(sample.key)
            if at is None or at in seen:
                what = "without a row" if at is None else "a second time"
                yield Fault(where, f"sample {show(sample.key)} {what}", "each stored row once")
                continue
            if in_order and at != number:
                in_order = False
                found = f"sample {number} is row {rows[at]['row']}"
                yield Fault(where, found, "the order of the facts")
            seen.add(at)
            yield from check_sample(sample, rows[at], where=f"{where} {sample.key}", exif=exif)
    except (tarfile.TarError, OSError) as error:
        yield Fault(where, f"cannot be read ({error})", "a whole tar")
    if len(seen) < len(rows):
        missing = next(row["key"] for at, row in enumerate(rows) if at not in seen)
        yield Fault(where, f"{len(rows) - len(seen)} samples missing, first {missing}", "none")


def check_sample(
    sample: Sample, row: Mapping[str, Any], *, where: str, exif: bool = False
) -> Iterator[Fault]:
    """One image, its caption and its JSON against its row of the facts."""
    images = [name for name in sample.members if name in IMAGE_FORMATS]
    others = sample.members.keys() - {*images, "txt", "json"}
    if len(images) != 1 or others or "json" not in sample.members:
        yield Fault(where, f"members {sorted(sample.members)}", "one image, txt and json")
    for name in images:
        yield from _check_image(sample.members[name], name, row, where=f"{where}.{name}", exif=exif)
    caption = (row["caption"] or "").encode()
    if sample.members.get("txt", b"" if row["caption"] is None else None) != caption:
        found = sample.members.get("txt", b"").decode(errors="replace")
        yield Fault(f"{where}.txt", f"caption {show(found)}", show(row["caption"]))
    if "json" in sample.members:
        yield from _check_json(sample.members["json"], row, where=f"{where}.json")


def _check_image(
    content: bytes, extension: str, row: Mapping[str, Any], *, where: str, exif: bool
) -> Iterator[Fault]:
    kind = IMAGE_FORMATS[extension]
    try:
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            size = (row["width"], row["height"])
            if image.size != size:
                yield Fault(where, f"{image.size} pixels", f"{size}")
                return
            image.load()
            if image.mode != "RGB" or (kind == "PNG" and content[24] != 8):
                yield Fault(where, f"mode {image.mode}", "RGB, 8 bits")
            if "exif" in image.info and not exif:
                yield Fault(where, "EXIF metadata", "none")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        yield Fault(where, f"cannot be decoded ({error})", f"a whole {kind} image")


def _check_json(content: bytes, row: Mapping[str, Any], *, where: str) -> Iterator[Fault]:
    try:
        tree = json.loads(content)
    except ValueError as error:
        yield Fault(where, f"not JSON ({error})", "the row's facts")
        return
    if not isinstance(tree, dict) or "key" not in tree:
        yield Fault(where, "no mapping with `key`", "the row's facts")
        return
    for name, value in tree.items():
        if name in row:
            if not _equal(value, row[name]):
                yield Fault(where, f"{name} {show(value)}", f"{show(row[name])} as in the facts")
        elif isinstance(value, str) and redact_text(value) != value:
            yield Fault(where, f"{name} holds a secret", "URLs without credentials")


def _equal(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    return left == right
