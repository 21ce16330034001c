"""Folders of pictures, nested or not: each folder that holds some is a file of the plan, each of
its pictures a row. Captions lie beside them, as `<name>.txt` or in a list (`picture_lists`)."""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.caption_lists import listed_captions
from pipelines.sources.cells import lost_cells
from pipelines.sources.columns import (
    CAPTION_NAMES,
    TextColumns,
    array_from_values,
    clean_text,
    infer_text_type,
    stored_type,
)
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.csv_records import Record
from pipelines.sources.files import SourceFile, StoredPart, suffix_of
from pipelines.sources.list_rows import too_large_messages
from pipelines.sources.picture_lists import (
    LIST_NAMES,
    NAME_FIELD,
    Fields,
    list_in,
    read_list_of_pictures,
)
from pipelines.sources.pictures import StoredFile, is_picture, list_folder, read_files
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows
from pipelines.sources.source_format import Scan, SourceFormat, Wanted
from pipelines.sources.tar_samples import CAPTION_EXTENSIONS, MAX_IMAGE_BYTES, MAX_TEXT_BYTES

_NO_FIELD: Final = "the text beside it"
_OF_OTHERS: Final = frozenset({".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".tar", ".tgz"})


class ImageFolder(SourceFormat):
    """A row a picture, `file_name` among its columns; nothing is fetched."""

    holds_images = True
    takes_folders = True

    def claims(self, names: Sequence[str]) -> bool:
        others = [n for n in names if not is_picture(n) and posixpath.basename(n) not in LIST_NAMES]
        return any(map(is_picture, names)) and _OF_OTHERS.isdisjoint(map(suffix_of, others))

    def choose(self, names: Iterable[str]) -> list[str]:
        folders = {posixpath.dirname(name) for name in names if is_picture(name)}
        return [f"{folder}/" if folder else "." for folder in sorted(folders)]

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        folder = _Folder(file)
        for start in range(asked.known_rows, len(folder.pictures), asked.rows_per_shard):
            where = folder.range(start, asked.rows_per_shard)
            limit = config.max_cell_bytes
            records = folder.records(where, config, limit)
            raw = folder.rows(where, config, records)
            lost = Counter(n for each in records for n in each.too_large if n in raw.extra)
            yield ScannedRange(
                start_row=start,
                raw=raw,
                types={name: folder.type_of(array) for name, array in raw.extra.items()},
                text_columns=TextColumns(url=None, caption=None),
                mark=where.mark,
                notes=(folder.notes() if start == asked.known_rows else Counter())
                + _garbled(raw)
                + lost_cells(limit, lost),
                too_large=[row for row, each in enumerate(records) if each.too_large],
            )

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        folder = _Folder(file)
        return folder.rows(where, config, folder.records(where, config, where.max_cell_bytes))

    def images(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig
    ) -> Iterator[tuple[int, bytes]]:
        pictures = _Folder(file).part(where)
        usable = {row: each for row, each in enumerate(pictures) if _fault(each) is None}
        contents = read_files(file.filesystem, list(usable.values()))
        for row, content in zip(usable, contents, strict=True):
            if content is not None:
                yield row, content

    def parts(self, file: SourceFile) -> Iterator[StoredPart]:
        yield _Folder(file)


def _garbled(raw: RawRows) -> Counter[str]:
    replaced = pc.sum(pc.match_substring(raw.caption, "\ufffd")).as_py() or 0
    return +Counter({"captions with bytes that are no UTF-8, replaced by U+FFFD": replaced})


def _fault(picture: StoredFile) -> str | None:
    if picture.num_bytes == 0:
        return "the picture's file is empty"
    return f"above {MAX_IMAGE_BYTES} bytes" if picture.num_bytes > MAX_IMAGE_BYTES else None


@dataclass(frozen=True)
class _Folder:
    """A folder that holds pictures, as it is now."""

    file: SourceFile

    @cached_property
    def path(self) -> str:
        return posixpath.normpath(self.file.path)

    @cached_property
    def files(self) -> list[StoredFile]:
        found = list_folder(self.file.filesystem, self.path)
        return [file for file in found if not file.name.startswith((".", "_"))]

    @cached_property
    def pictures(self) -> list[StoredFile]:
        """By name: the folder's rows."""
        return [file for file in self.files if is_picture(file.name)]

    def range(self, start_row: int, num_rows: int) -> SourceRange:
        """Rows of the folder, marked by the names of their pictures."""
        rows = self.pictures[start_row : start_row + num_rows]
        names = "\0".join(picture.name for picture in rows)
        return SourceRange(
            shard_id=0,
            file=self.file.name,
            start_row=start_row,
            num_rows=len(rows),
            mark=hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        )

    def part(self, where: SourceRange) -> list[StoredFile]:
        """The pictures of a range; raises `SourceError` where they are others than were planned."""
        if self.range(where.start_row, where.num_rows).mark != where.mark:
            raise SourceError(
                f"{self.file.uri}: its pictures are not those that were planned. A run grows by "
                "new folders, and in one by pictures whose names come after those that it has; "
                "put it back as it was, or give another `output`"
            )
        return self.pictures[where.start_row : where.start_row + where.num_rows]

    def records(
        self, where: SourceRange, config: ReadingConfig, max_bytes: int | None
    ) -> list[Record]:
        """What is told of each picture of a range, without cells that have more bytes."""
        pictures = self.part(where)
        name = self._caption_field(config)
        found = []
        for picture, text in zip(pictures, self._texts(pictures), strict=True):
            fields = self.told.get(picture.name, {})
            record = Record(fields=fields if text is None else {**fields, name: text}, end_byte=0)
            found.append(record if max_bytes is None else record.limited([], max_bytes))
        return found

    def rows(self, where: SourceRange, config: ReadingConfig, records: Sequence[Record]) -> RawRows:
        """A range as rows, of what is told of its pictures."""
        pictures = self.part(where)
        name = self._caption_field(config)
        told = [record.fields for record in records if isinstance(record.fields, dict)]
        values = [fields.get(name) for fields in told]
        lists = listed_captions(values, config.captions)
        others = {other: None for fields in told for other in fields if other != name}
        extra = {other: array_from_values([one.get(other) for one in told]) for other in others}
        extra |= {} if lists is None else {name: lists}
        faults = [_fault(picture) for picture in pictures]
        names = [clean_text(picture.name) or "" for picture in pictures]
        folder = "" if self.file.name == "." else self.file.name
        return raw_rows(
            url=pa.nulls(len(pictures), pa.string()),
            caption=pa.array(map(_as_text, values), pa.string()),
            captions=lists,
            reason=["member_missing" if fault else None for fault in faults],
            error_message=faults,
            names=names,
            extra=extra | {NAME_FIELD: pa.array([folder + name for name in names], pa.string())},
            too_large=too_large_messages(list(records), TextColumns(url=None, caption=name)),
        )

    @cached_property
    def list_file(self) -> tuple[StoredFile, str] | None:
        """The nearest list, and the folder's name below it; None where there is none."""
        steps = [step for step in self.file.name.split("/") if step not in ("", ".")]
        for above in range(len(steps) + 1):
            path = posixpath.normpath(posixpath.join(self.path, *[".."] * above))
            files = list_folder(self.file.filesystem, path) if above else self.files
            found = list_in(files, self.file)
            if found is not None:
                return found, "".join(f"{step}/" for step in steps[len(steps) - above :])
        return None

    @cached_property
    def told(self) -> dict[str, Fields]:
        """What the list says of each picture of this folder."""
        if self.list_file is None:
            return {}
        found, below = self.list_file
        digest = self._content_digest(found)
        every = read_list_of_pictures(self.file.filesystem, found.path, digest)
        folder = below.rstrip("/")
        return {
            posixpath.basename(name): fields
            for name, fields in every.items()
            if posixpath.dirname(name) == folder
        }

    def _caption_field(self, config: ReadingConfig) -> str:
        names = {name for fields in self.told.values() for name in fields}
        asked = config.caption_column
        if asked is not None:
            if asked and names and asked not in names:
                raise SourceError(
                    f"{self.file.uri}: source.caption_column is {asked!r}, but the list beside the "
                    f"pictures has: {', '.join(sorted(names))}"
                )
            return asked or _NO_FIELD
        found = sorted(name for name in names if name.strip().lower() in CAPTION_NAMES)
        if len(found) > 1:
            raise SourceError(
                f"{self.file.uri}: several fields could be the caption ({', '.join(found)}); set "
                "source.caption_column"
            )
        return found[0] if found else _NO_FIELD

    def _texts(self, pictures: Sequence[StoredFile]) -> list[str | None]:
        """What each picture's own text file says; None where it has none."""
        beside = {picture.name: text for picture in pictures if (text := self._text_of(picture))}
        contents = read_files(self.file.filesystem, list(beside.values()))
        texts = dict(zip(beside, contents, strict=True))
        return [
            None
            if (content := texts.get(picture.name)) is None
            else content.decode("utf-8-sig", "replace").strip()
            for picture in pictures
        ]

    @cached_property
    def _by_name(self) -> dict[str, StoredFile]:
        return {file.name: file for file in self.files}

    def _text_of(self, picture: StoredFile) -> StoredFile | None:
        stem = picture.name.rpartition(".")[0]
        found = [self._by_name.get(f"{stem}.{extension}") for extension in CAPTION_EXTENSIONS]
        return next((f for f in found if f is not None and f.num_bytes <= MAX_TEXT_BYTES), None)

    def type_of(self, array: pa.Array) -> str:
        """The stored type of a list's field."""
        if array.null_count == len(array):
            return ""
        is_csv = self.list_file is not None and self.list_file[0].name.endswith(".csv")
        return infer_text_type(array) if is_csv else stored_type(array.type)

    def notes(self) -> Counter[str]:
        """What of the folder is no part of a row, and which pictures its list does not name."""
        texts = {text.name for picture in self.pictures if (text := self._text_of(picture))}
        known = {*LIST_NAMES, *texts, *(picture.name for picture in self.pictures)}
        notes: Counter[str] = Counter()
        notes[f"{self.file.uri}: files that are no part of a row"] = sum(
            file.name not in known for file in self.files
        )
        if self.list_file is not None:
            names = {picture.name for picture in self.pictures}
            where = f"{self.file.uri}: {self.list_file[0].name}"
            notes[f"{where} names pictures that are not there"] = len(self.told.keys() - names)
            notes[f"{where} does not name pictures that are there"] = len(names - self.told.keys())
        return +notes

    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(picture.num_bytes for picture in self.pictures)

    def token(self) -> str:
        """A mark of every file's name and size, and of what the list says."""
        return self.sha256()

    def sha256(self) -> str:
        """The same; hashing the pictures would read all of them."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.name} {file.num_bytes}\n".encode("utf-8", "surrogatepass"))
        if self.list_file is not None:
            digest.update(self._content_digest(self.list_file[0]).encode())
        return digest.hexdigest()

    def _content_digest(self, file: StoredFile) -> str:
        content: bytes = self.file.filesystem.cat_file(file.path)
        return hashlib.sha256(content).hexdigest()


def _as_text(value: object) -> str | None:
    return clean_text(value) if isinstance(value, str) else None
