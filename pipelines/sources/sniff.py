"""What a source is, by the formats' own readers: which options read it, and what its rows are."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow.compute as pc

from pipelines.sources.columns import TextColumnError
from pipelines.sources.config import SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.img2dataset import image_column
from pipelines.sources.parquet_list import picture_columns
from pipelines.sources.parquet_reading import open_parquet
from pipelines.sources.rows import ScannedRange
from pipelines.sources.source import Source
from pipelines.sources.source_config import SourceConfig

_LOOKED_AT_ROWS: Final = 1_000
_DELIMITERS: Final = (";", "\t", "|")


@dataclass(frozen=True, kw_only=True)
class Sniffed:
    """A source as it is to be read.

    Attributes:
        format: Of `FORMATS`.
        options: Beside `path`, the keys of `source` that have to be set.
        choices: Of some of these, what else could have been meant: columns by the key.
        holds_images: Whether nothing is fetched.
        num_files: Files, or folders with pictures.
        num_rows: Of the first file; `_LOOKED_AT_ROWS` where it has more.
        is_whole: Whether the first file has no more than these.
        has_captions: Whether any of these rows has one.
    """

    format: str
    options: Mapping[str, Any]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    holds_images: bool
    num_files: int
    num_rows: int
    is_whole: bool
    has_captions: bool


def sniff(path: str, *, options: Mapping[str, Any]) -> Sniffed:
    """Look at a source's names and at the first rows of its first file.

    Args:
        path: As `source.path`.
        options: Keys of `source` that are set already.

    Raises:
        SourceError: nothing is there, or it cannot be read in any way; says what to set.
    """
    given = dict(options)
    file = _first_file(path, given)
    if "format" not in given and (better := _holding_pictures(file)):
        given |= better
    given, choices, scanned = _read(path, given)
    source = Source(SourceConfig(path=path, **given))
    if not source.holds_images and (root := _root_of_paths(path, scanned)):
        given.setdefault("files_root", root)
    num_rows = len(scanned.raw.url)
    return Sniffed(
        format=source.files[0].format,
        options=given,
        choices=choices,
        holds_images=source.holds_images,
        num_files=len(source.files),
        num_rows=num_rows,
        is_whole=num_rows < _LOOKED_AT_ROWS,
        has_captions=scanned.raw.caption.null_count < num_rows,
    )


def _first_file(path: str, options: Mapping[str, Any]) -> SourceFile:
    return Source(SourceConfig(path=path, **options)).files[0]


def _holding_pictures(file: SourceFile) -> dict[str, Any]:
    """The options by which Parquet is read with the pictures that it holds; none where it is a
    list of URLs."""
    if file.format != "parquet":
        return {}
    if image_column(file) is not None:
        return {"format": "img2dataset"}
    with open_parquet(file) as parquet:
        names = parquet.schema_arrow.names
    found = picture_columns(file, names) if len(set(names)) == len(names) else []
    if not found:
        return {}
    return {"format": "parquet_images"} | ({"image_column": found[0]} if len(found) > 1 else {})


def _read(
    path: str, given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]], ScannedRange]:
    """The first rows, by the first options that read them, and these options."""
    first: SourceError | None = None
    choices: dict[str, tuple[str, ...]] = {}
    for more in _attempts(path, given):
        options = {**given, **more}
        while True:
            try:
                return options, choices, _scan(path, options)
            except TextColumnError as error:
                first = first or error
                key = error.option.removeprefix("source.")
                if key in options or (key == "url_column" and not error.matches):
                    break
                options[key] = error.matches[0] if error.matches else ""
                choices[key] = error.matches or error.names
            except SourceError as error:
                first = first or error
                break
        choices = {}
    assert first is not None
    raise first


def _attempts(path: str, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Options beside the given ones, the likeliest first."""
    yield {}
    kind = _first_file(path, given).format
    if kind == "csv":
        yield from ({"csv": {"delimiter": sign}} for sign in _DELIMITERS)
    if kind == "webdataset":
        yield {"tar_grouping": "last_dot"}
    if kind == "img2dataset":
        yield {"caption_column": ""}
    if kind == "huggingface":
        yield {"format": "huggingface_urls"}
    yield {"captions": "first"}


def _scan(path: str, options: Mapping[str, Any]) -> ScannedRange:
    config = SourceConfig.model_validate({"path": path, **options})
    source = Source(config)
    for scanned in source.scan(source.files[0], rows_per_shard=_LOOKED_AT_ROWS):
        return scanned
    raise SourceError(f"{source.files[0].uri}: holds no row")


def _root_of_paths(path: str, scanned: ScannedRange) -> str | None:
    """Where a list names files of this machine and no URLs: the folder that they lie in."""
    urls = [url.strip() for url in scanned.raw.url.drop_null().to_pylist()]
    if not urls or pc.any(pc.match_substring_regex(scanned.raw.url, r"^\s*https?:")).as_py():
        return None
    names = [url.removeprefix("file://") for url in urls]
    if all(os.path.isabs(name) for name in names):
        root: str = os.path.commonpath([os.path.dirname(name) for name in names])
        return root
    if "://" in path:
        return None
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    return folder if any(os.path.exists(os.path.join(folder, name)) for name in names) else None
