"""Samples of a tar: members that share a name, wherever they lie in it, and what each is for."""

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from pipelines.rows.image_formats import ALL_IMAGE_EXTENSIONS
from pipelines.sources.columns import CAPTION_NAMES, clean_text
from pipelines.sources.config import SourceError, TarGrouping
from pipelines.sources.files import SourceFile
from sd_core.plain_json import parse_json
from sd_core.tar_members import Member, iterate_members

MAX_IMAGE_BYTES = 64 << 20
MAX_TEXT_BYTES = 8 << 20
CAPTION_EXTENSIONS: Final = ("txt", "caption", "text")
"""The first of them counts where a sample has several."""
_TEXTS: Final = (*CAPTION_EXTENSIONS, "json")
_SHOWN_CHARS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A member of a sample.

    Attributes:
        middle: What stands between the sample's name and the extension: `seg` of `0.seg.png`.
        extension: The last one, in lower case.
    """

    name: str
    middle: str
    extension: str
    start_byte: int
    end_byte: int
    num_bytes: int
    content: bytes | None = field(default=None, repr=False)

    @property
    def is_image(self) -> bool:
        """Whether it is a picture of a format that decode knows."""
        return self.extension in ALL_IMAGE_EXTENSIONS


@dataclass(kw_only=True)
class PlannedSample:
    """The members of a tar that are one row, in the tar's order; only those that a row may use."""

    name: str
    start_byte: int
    end_byte: int
    parts: list[Part] = field(default_factory=list)

    @property
    def images(self) -> list[Part]:
        """Its pictures, the one that is its image first."""
        return sorted((p for p in self.parts if p.is_image), key=lambda part: part.middle != "")

    @property
    def image(self) -> Part | None:
        """The first whose name has no further dot, else the first."""
        return next(iter(self.images), None)

    @property
    def caption_part(self) -> Part | None:
        """The text that belongs to the image: `0.seg.txt` to `0.seg.png`, else `0.txt`."""
        beside, known = self._middle, ("", self._middle, *CAPTION_NAMES)

        def rank(part: Part) -> tuple[bool, bool, int]:
            order = CAPTION_EXTENSIONS.index(part.extension)
            return part.middle.lower() != beside, part.middle != "", order

        texts = [part for part in self.parts if part.extension in CAPTION_EXTENSIONS]
        return min((p for p in texts if p.middle.lower() in known), key=rank, default=None)

    @property
    def json_part(self) -> Part | None:
        """The fields that belong to the image."""
        trees = [part for part in self.parts if part.extension == "json"]
        named = {part.middle.lower(): part for part in reversed(trees)}
        return named.get(self._middle, named.get(""))

    @property
    def text_bytes(self) -> int:
        """Of its texts and JSON, as far as they are read."""
        sizes = (part.num_bytes for part in self.parts if not part.is_image)
        return sum(size for size in sizes if size <= MAX_TEXT_BYTES)

    @property
    def caption(self) -> str | None:
        """The text, if it is there and was read."""
        part = self.caption_part
        if part is None or part.content is None:
            return None
        return part.content.decode("utf-8-sig", "replace")

    @property
    def caption_is_garbled(self) -> bool:
        """Whether bytes of the text are no UTF-8."""
        part = self.caption_part
        try:
            return part is not None and (part.content or b"").decode() is None
        except UnicodeDecodeError:
            return True

    @property
    def fields(self) -> dict[str, object]:
        """The object of its JSON; nothing where there is none."""
        return self._parsed or {}

    @property
    def json_is_broken(self) -> bool:
        """Whether there is JSON, and no object in it."""
        return self.json_part is not None and self._parsed is None

    @cached_property
    def _parsed(self) -> dict[str, object] | None:
        part = self.json_part
        try:
            parsed = None if part is None or part.content is None else parse_json(part.content)
        except (ValueError, RecursionError):
            return None
        return parsed if isinstance(parsed, dict) else None

    @property
    def unused(self) -> list[Part]:
        """Pictures, texts and JSON that the row does not take."""
        taken = (self.image, self.caption_part, self.json_part)
        return [part for part in self.parts if not any(part is one for one in taken)]

    @property
    def _middle(self) -> str:
        image = self.image
        return "" if image is None else image.middle.lower()


def tar_parts(
    file: SourceFile,
    grouping: TarGrouping | None,
    *,
    start_byte: int = 0,
    end_byte: int | None = None,
    texts: bool = False,
    images: bool = False,
    max_caption_bytes: int | None = None,
) -> Iterator[tuple[str, Part]]:
    """The members of a part of a tar that may be of a sample, each with the sample's name.

    Args:
        texts: Read captions and JSON.
        images: Read pictures.
    """

    def max_bytes(name: str) -> int:
        extension = name.rpartition(".")[2].lower()
        if extension in ALL_IMAGE_EXTENSIONS:
            return MAX_IMAGE_BYTES if images else 0
        if not texts or extension not in _TEXTS:
            return 0
        return MAX_TEXT_BYTES if extension == "json" else max_caption_bytes or MAX_TEXT_BYTES

    with file.open_at(start_byte) as stream:
        for member in iterate_members(
            stream,
            fault=lambda text: SourceError(f"{file.uri}: {text}"),
            at=start_byte,
            end=end_byte,
            max_bytes=max_bytes,
        ):
            if member.is_file:
                yield _named(member, grouping)


def _named(member: Member, grouping: TarGrouping | None) -> tuple[str, Part]:
    """A member and its sample's name, "" where it is of none: `README`, `._x.jpg` of macOS."""
    name = posixpath.normpath(member.name)  # only ever compared, never opened
    folder, base = posixpath.split(name)
    first, _, rest = base.partition(".")
    middle, dot, extension = rest.rpartition(".")
    if grouping == "last_dot":
        first, middle = f"{first}{'.' if dot else ''}{middle}", ""
    is_part = first != "" and rest != "" and not base.startswith(".")
    part = Part(
        name=name,
        middle=middle,
        extension=extension.lower(),
        start_byte=member.start_byte,
        end_byte=member.end_byte,
        num_bytes=member.num_bytes,
        content=member.content,
    )
    return (clean_text(posixpath.join(folder, first)) or "") if is_part else "", part


def grouped(parts: Iterable[tuple[str, Part]]) -> dict[str, PlannedSample]:
    """The samples by name, in the order of their first members."""
    samples: dict[str, PlannedSample] = {}
    for name, part in parts:
        if not name:
            continue
        sample = samples.get(name)
        if sample is None:
            sample = samples[name] = PlannedSample(
                name=name, start_byte=part.start_byte, end_byte=part.end_byte
            )
        sample.end_byte = part.end_byte
        if part.is_image or part.extension in _TEXTS:
            sample.parts.append(part)
    return samples


def kind_of(name: str, part: Part) -> str | None:
    """What to call a member that is of no use to a row; None for one that is."""
    if part.is_image or part.extension in _TEXTS:
        return None if name else "hidden files"
    if not name:
        return "hidden files" if posixpath.basename(part.name).startswith(".") else "no extension"
    return f".{part.extension}" if len(part.extension) <= _SHOWN_CHARS else "other extensions"
