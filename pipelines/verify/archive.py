"""Image archives against the facts: the same samples, in the same order, as they say."""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from PIL import Image

from pipelines.verify.fault import Fault, Secret, shown
from pipelines.verify.files import raise_unreadable
from sd_core.errors import FoundryError
from sd_core.plain_json import parse_json
from sd_core.redact import redact_text
from sd_core.tar_members import TarSample, iterate_tar_samples

IMAGE_FORMATS: Final = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_END_OF_ARCHIVE = bytes(1024)


class _Damaged(FoundryError):
    """The archive is damaged, or holds something else than samples."""


def _read_samples(path: Path) -> Iterator[TarSample]:
    end = 0
    with path.open("rb") as file:
        for sample in iterate_tar_samples(file, fault=_Damaged):
            end = sample.end_byte
            yield sample
        file.seek(end)
        if file.read(len(_END_OF_ARCHIVE)) != _END_OF_ARCHIVE:
            raise _Damaged("no end-of-archive mark: cut off or damaged")


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
        for number, sample in enumerate(_read_samples(path)):
            at = position.get(sample.key)
            if at is None or at in seen:
                what = "without a row" if at is None else "a second time"
                yield Fault(where, f"sample {shown(sample.key)} {what}", "each stored row once")
                continue
            if in_order and at != number:
                in_order = False
                found = f"sample {number} is row {rows[at]['row']}"
                yield Fault(where, found, "the order of the facts")
            seen.add(at)
            yield from check_sample(sample, rows[at], where=f"{where} {sample.key}", exif=exif)
    except (_Damaged, OSError) as error:
        raise_unreadable(error)
        yield Fault(where, f"cannot be read ({error})", "a whole tar")
    if len(seen) < len(rows):
        missing = next(row["key"] for at, row in enumerate(rows) if at not in seen)
        yield Fault(where, f"{len(rows) - len(seen)} samples missing, first {missing}", "none")


def check_sample(
    sample: TarSample, row: Mapping[str, Any], *, where: str, exif: bool = False
) -> Iterator[Fault]:
    """One image, its caption and its JSON against its row of the facts."""
    images = [name for name in sample.files if name in IMAGE_FORMATS]
    others = sample.files.keys() - {*images, "txt", "json"}
    if len(images) != 1 or others or "json" not in sample.files:
        yield Fault(where, f"members {sorted(sample.files)}", "one image, txt and json")
    for name in images:
        yield from _check_image(sample.files[name], name, row, where=f"{where}.{name}", exif=exif)
    caption = (row["caption"] or "").encode()
    if sample.files.get("txt", b"" if row["caption"] is None else None) != caption:
        found = sample.files.get("txt", b"").decode(errors="replace")
        yield Fault(f"{where}.txt", f"caption {shown(found)}", shown(row["caption"]))
    if "json" in sample.files:
        yield from _check_json(sample.files["json"], row, where=f"{where}.json")


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
        tree = parse_json(content)
    except ValueError as error:
        yield Fault(where, f"not JSON ({error})", "the row's facts")
        return
    if not isinstance(tree, dict) or "key" not in tree:
        yield Fault(where, "no mapping with `key`", "the row's facts")
        return
    for name, value in tree.items():
        if name in row:
            if not _equal(value, row[name]):
                yield Fault(where, f"{name} {shown(value)}", f"{shown(row[name])} as in the facts")
        elif isinstance(value, str) and redact_text(value) != value:
            yield Secret(where, f"{name} holds a secret", "URLs without credentials")


def _equal(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    return left == right
