"""What the user says about the input list."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pipelines.config import Config
from sd_core.failures import EnvironmentFault, InputError

Format = Literal["parquet", "csv", "jsonl", "text", "img2dataset", "webdataset"]
ContentHashKind = Literal["md5", "sha1", "sha256"]

_HASH_KINDS: dict[int, ContentHashKind] = {32: "md5", 40: "sha1", 64: "sha256"}


class SourceError(InputError):
    """The source cannot be read as asked; the message says where, what was found and what to do."""


class UnreachableSourceError(SourceError, EnvironmentFault):
    """The source lies on a disk or store that does not answer now."""


class SourceConfig(Config):
    """Where the rows come from and which of their columns mean what."""

    path: str = Field(min_length=1)
    """One file, a glob or a folder, on any fsspec URL."""
    format: Literal["auto"] | Format = "auto"
    """`auto` goes by the file names; `img2dataset` is a folder that img2dataset wrote."""
    url_column: str | None = None
    """Null: recognised among the common names (`URL`, `url`, `image_url`, ...); the empty text says
    that the rows are prompts, without URLs."""
    caption_column: str | None = None
    """Null: recognised (`TEXT`, `caption`, ...); the empty text says the list has no captions."""
    content_hash: str | None = None
    """A column with the md5, sha1 or sha256 of the image file, in hex, told by its length."""
    storage_options: dict[str, str | int | float | bool | dict[str, str] | None] = Field(
        default_factory=dict, repr=False
    )
    """Passed to fsspec; may hold secrets, so it is redacted wherever it is stored."""


def content_hash_kind(digest: str) -> ContentHashKind | None:
    """Which hash a hex digest is, by its length; None where it is none."""
    text = digest.strip()
    if not all(character in "0123456789abcdefABCDEF" for character in text):
        return None
    return _HASH_KINDS.get(len(text))


def storage_arguments(config: SourceConfig) -> Mapping[str, object]:
    """The keyword arguments for fsspec."""
    return dict(config.storage_options)
