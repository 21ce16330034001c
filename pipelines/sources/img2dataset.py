"""Folders that img2dataset wrote: a Parquet list for each shard, and its images in one of three
places: a tar beside it, a folder beside it, or a column of the list itself."""

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.image_formats import ALL_IMAGE_EXTENSIONS
from pipelines.sources.arrow_text import is_bytes
from pipelines.sources.columns import TextColumns
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile, StoredPart
from pipelines.sources.parquet_list import read_bytes_column, read_parquet_rows, scan_parquet
from pipelines.sources.parquet_reading import open_parquet
from pipelines.sources.pictures import StoredFile, is_picture, list_folder, read_files
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange
from pipelines.sources.source_format import Scan, SourceFormat, Wanted
from pipelines.sources.tar_samples import MAX_IMAGE_BYTES, tar_parts


def img2dataset_columns(config: ReadingConfig) -> ReadingConfig:
    """The configuration with img2dataset's own column names where none are set."""
    return config.model_copy(
        update={
            "url_column": config.url_column or "url",
            "caption_column": "caption" if config.caption_column is None else config.caption_column,
        }
    )


def image_column(file: SourceFile) -> str | None:
    """The column that holds the images in img2dataset's `parquet` layout; None in the others."""
    with open_parquet(file) as parquet:
        schema = parquet.schema_arrow
    if not {"key", "status"} <= set(schema.names):
        return None
    found = [f.name for f in schema if f.name in ALL_IMAGE_EXTENSIONS and is_bytes(f.type)]
    return found[0] if found else None


def refuse_image_column(file: SourceFile) -> None:
    """Raise `SourceError` where a Parquet list is one of img2dataset's that holds its images."""
    name = image_column(file)
    if name is not None:
        raise SourceError(
            f"{file.uri}: img2dataset wrote it in its parquet layout, with the images in the "
            f"column {name!r}; set source.format to img2dataset to read them, or to parquet to "
            "fetch the URLs again"
        )


class Img2dataset(SourceFormat):
    """A folder of `00000.parquet` beside `00000.tar` or, with the pictures in it, `00000/`; in a
    third layout the list itself holds them."""

    holds_images = True

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        images = image_column(file)
        for scanned in scan_parquet(
            file,
            img2dataset_columns(config),
            asked.rows_per_shard,
            without={images} if images else (),
        ):
            where = SourceRange(
                shard_id=0,
                file=file.name,
                start_row=scanned.start_row,
                num_rows=len(scanned.raw.url),
                max_cell_bytes=config.max_cell_bytes if scanned.too_large else None,
            )
            # Read again with its status: whether a row can be used is in it.
            yield replace(scanned, raw=read_img2dataset(file, where, config, others=set()))

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        return read_img2dataset(file, where, config, others=wanted.others)

    def images(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig
    ) -> Iterator[tuple[int, bytes]]:
        """In the order in which the images are stored."""
        raw = read_img2dataset(file, where, config, others=set())
        usable = pc.is_null(raw.reason).to_pylist()
        keys = raw.extra["key"].cast(pa.string()).to_pylist()
        rows = {key: row for row, key in enumerate(keys) if usable[row]}
        name = image_column(file)
        if name is not None:
            for row, content in enumerate(read_bytes_column(file, where, name)):
                if content and usable[row] and len(content) <= MAX_IMAGE_BYTES:
                    yield row, content
            return
        tar, folder = tar_beside(file), StoredFolder(file)
        if file.filesystem.exists(tar.path):
            yield from _from_tar(tar, rows)
        else:
            yield from _from_folder(folder, rows)

    def choose(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name.endswith(".parquet")]

    def claims(self, names: Sequence[str]) -> bool:
        found, folders = set(names), {posixpath.dirname(name) for name in names}
        stems = [name.removesuffix(".parquet") for name in self.choose(names)]
        return bool(stems) and all(f"{stem}.tar" in found or stem in folders for stem in stems)

    def parts(self, file: SourceFile) -> Iterator[StoredPart]:
        yield file
        tar, folder = tar_beside(file), StoredFolder(file)
        if file.filesystem.exists(tar.path):
            yield tar
        elif folder.exists():
            yield folder


def read_img2dataset(
    file: SourceFile, where: SourceRange, config: ReadingConfig, *, others: set[str]
) -> RawRows:
    """The rows of one range; those that img2dataset failed to get are `source_failed`.

    Args:
        others: Which columns beside URL, caption, key and status.
    """
    asked = img2dataset_columns(config)
    columns = TextColumns(url=asked.url_column, caption=asked.caption_column or None)
    raw = read_parquet_rows(file, where, columns, others={"key", "status", *others})
    status = raw.extra.get("status")
    if status is None or "key" not in raw.extra:
        raise SourceError(
            f"{file.uri}: no 'status' and 'key' columns, so img2dataset did not write it; "
            "set source.format to parquet"
        )
    failed = pc.fill_null(pc.not_equal(status, "success"), True)
    known = pc.is_in(status, value_set=pa.array(["failed_to_download", "failed_to_resize"]))
    said = pc.if_else(known, status, "an unknown status")
    return replace(
        raw,
        reason=pc.if_else(failed, "source_failed", raw.reason),
        error_message=pc.if_else(
            failed,
            pc.binary_join_element_wise("img2dataset:", said, " "),
            raw.error_message,
        ),
    )


def _from_tar(tar: SourceFile, rows: dict[str, int]) -> Iterator[tuple[int, bytes]]:
    for name, part in tar_parts(tar, None, images=True):
        if not rows:
            return
        if part.is_image and part.content and name in rows:
            yield rows.pop(name), part.content


def _from_folder(folder: "StoredFolder", rows: dict[str, int]) -> Iterator[tuple[int, bytes]]:
    found: dict[str, StoredFile] = {}
    for picture in folder.pictures():
        found.setdefault(_key_of(picture), picture)
    usable = {k: p for k, p in found.items() if k in rows and 0 < p.num_bytes <= MAX_IMAGE_BYTES}
    contents = read_files(folder.beside.filesystem, list(usable.values()))
    for key, content in zip(usable, contents, strict=True):
        if content is not None:
            yield rows[key], content


def _key_of(picture: StoredFile) -> str:
    return picture.name.rpartition(".")[0]


def tar_beside(file: SourceFile) -> SourceFile:
    """The tar that belongs to one of img2dataset's Parquet files."""

    def swap(path: str) -> str:
        return f"{path.removesuffix('.parquet')}.tar"

    return replace(
        file,
        name=swap(file.name),
        path=swap(file.path),
        uri=swap(file.uri),
        format="webdataset",
        compression=None,
    )


@dataclass(frozen=True)
class StoredFolder:
    """The folder with the images of one of img2dataset's Parquet files, in its `files` layout."""

    beside: SourceFile

    @property
    def path(self) -> str:
        """Within the file system."""
        return self.beside.path.removesuffix(".parquet")

    def exists(self) -> bool:
        return bool(self.beside.filesystem.isdir(self.path))

    def pictures(self) -> list[StoredFile]:
        """By name; none where there is no folder."""
        files = list_folder(self.beside.filesystem, self.path)
        return [file for file in files if is_picture(file.name)]

    def token(self) -> str:
        """A mark of its pictures' names and sizes; their bytes are not read."""
        digest = hashlib.sha256()
        for picture in self.pictures():
            digest.update(f"{_key_of(picture)} {picture.num_bytes}\n".encode())
        return digest.hexdigest()

    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(picture.num_bytes for picture in self.pictures())

    def sha256(self) -> str:
        """The same: hashing the bytes of every file would fetch all of them."""
        return self.token()
