"""The formats of source files by name; to add one, write its file and add its line at the end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.sources.config import ReadingConfig
from pipelines.sources.files import SourceFile
from pipelines.sources.hub_data import HuggingFaceUrls
from pipelines.sources.image_folder import ImageFolder
from pipelines.sources.image_tables import HuggingFaceData, ParquetImages
from pipelines.sources.img2dataset import Img2dataset, refuse_image_column
from pipelines.sources.lists import read_list, scan_list
from pipelines.sources.parquet_list import read_parquet_rows, scan_parquet
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange
from pipelines.sources.source_format import Scan, SourceFormat, Wanted
from pipelines.sources.webdataset import WebDataset


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
