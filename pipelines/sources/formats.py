"""The formats of source files by name; to add one, write its file and add its line at the end."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipelines.sources.config import ReadingConfig
from pipelines.sources.files import SourceFile, StoredPart
from pipelines.sources.hub_data import HuggingFaceUrls
from pipelines.sources.image_folder import ImageFolder
from pipelines.sources.image_tables import HuggingFaceData, ParquetImages
from pipelines.sources.img2dataset import (
    folder_beside,
    img2dataset_images,
    is_img2dataset,
    read_img2dataset,
    refuse_image_column,
    scan_img2dataset,
    tar_beside,
)
from pipelines.sources.lists import read_list, scan_list
from pipelines.sources.parquet_list import read_parquet_rows, scan_parquet
from pipelines.sources.rows import EARLIER_READER, RawRows, ScannedRange, SourceRange
from pipelines.sources.source_format import Scan, SourceFormat, Wanted
from pipelines.sources.tar_rows import earlier_tar_images, read_earlier_tar, scan_earlier_tar
from pipelines.sources.webdataset import read_webdataset, scan_webdataset, webdataset_images


class ParquetList(SourceFormat):
    """A list of URLs in Parquet."""

    suffixes = (".parquet",)

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        if config.format == "auto":
            refuse_image_column(file)
        return scan_parquet(file, config, asked.rows_per_shard)

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        return read_parquet_rows(file, where, wanted.columns, others=wanted.others)


@dataclass(frozen=True)
class TextList(SourceFormat):
    """A list of URLs that is text: CSV, JSON lines, or a URL a line, as the file's format says."""

    suffixes: Sequence[str]

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        return scan_list(file, config, asked.rows_per_shard, reader=asked.reader)

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        return read_list(file, where, wanted.columns, config)


class Img2dataset(SourceFormat):
    """A folder that img2dataset wrote: a Parquet list for each shard, and its images."""

    holds_images = True

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        return scan_img2dataset(file, config, asked.rows_per_shard)

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        return read_img2dataset(file, where, config, others=wanted.others)

    def images(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig
    ) -> Iterator[tuple[int, bytes]]:
        return img2dataset_images(file, where, config)

    def choose(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name.endswith(".parquet")]

    def claims(self, names: Sequence[str]) -> bool:
        return is_img2dataset(names)

    def parts(self, file: SourceFile) -> Iterator[StoredPart]:
        yield file
        tar, folder = tar_beside(file), folder_beside(file)
        if file.filesystem.exists(tar.path):
            yield tar
        elif folder.exists():
            yield folder


class WebDataset(SourceFormat):
    """Tars of samples, their images in them; plans of earlier versions read them their own way."""

    suffixes = (".tar", ".tgz")
    holds_images = True

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        if asked.reader == EARLIER_READER:
            return scan_earlier_tar(file, config, asked.rows_per_shard)
        return scan_webdataset(file, config, asked.rows_per_shard, known_rows=asked.known_rows)

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        if where.reader == EARLIER_READER:
            return read_earlier_tar(file, where, config)
        return read_webdataset(file, where, config)

    def images(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig
    ) -> Iterator[tuple[int, bytes]]:
        if where.reader == EARLIER_READER:
            return earlier_tar_images(file, where)
        return webdataset_images(file, where, config)


FORMATS: dict[str, SourceFormat] = {
    "parquet": ParquetList(),
    "csv": TextList((".csv", ".tsv")),
    "jsonl": TextList((".jsonl", ".ndjson")),
    "text": TextList((".txt",)),
    "img2dataset": Img2dataset(),
    "webdataset": WebDataset(),
    "folder": ImageFolder(),
    "parquet_images": ParquetImages(),
    "huggingface": HuggingFaceData(),
    "huggingface_urls": HuggingFaceUrls(),
}
