"""What the user says about how an input list is read."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from pipelines.config import Config
from sd_core.errors import EnvironmentFault, InputError

MAX_CELL_BYTES: Final = 1 << 20
MAX_COLUMNS: Final = 10_000
TarGrouping = Literal["first_dot", "last_dot"]


class SourceError(InputError):
    """The source cannot be read as asked; the message says where, what was found and what to do."""


class UnreachableSourceError(EnvironmentFault, SourceError):
    """The source lies on a disk or store that does not answer now."""


def _one_character(value: str) -> str:
    if len(value) != 1 or value in '\r\n"':
        raise ValueError(f"one character that is no quote and no line end, got {value!r}")
    return value


Character = Annotated[
    str,
    BeforeValidator(lambda value: "\t" if value in ("\\t", "tab") else value),
    AfterValidator(_one_character),
]


class CsvConfig(Config):
    """How lists that are text are written; what is not told goes by the file's name."""

    delimiter: Character | None = None
    """Between fields. Null: a tab in `.tsv`, else a comma."""
    quoting: Literal["minimal", "none"] | None = None
    """`minimal`: double quotes around a field hold delimiters and line breaks, doubled ones are
    quotes (RFC 4180); `none`: quotes are plain characters. Null: `none` in `.tsv`, else
    `minimal`, and a quoted field that takes in what looks like a row is refused."""
    escape: Character | None = None
    """Makes the next character a plain one; null: there is none."""
    encoding: str | None = None
    """Of CSV, text and JSON lines: any of Python's names. Null: by the byte order mark, else
    UTF-8, and a line that is not is refused. Named: such a line is a `row_unreadable`."""


class ReadingConfig(Config):
    """How the files are read, and which of their columns mean what."""

    format: str = "auto"
    """`auto` goes by the file names; `img2dataset` is a folder that img2dataset wrote, `folder` one
    of pictures, `parquet_images` Parquet that holds its pictures, `huggingface` a data set as
    `datasets` saves it to disk or keeps it in its cache, `huggingface_urls` one without pictures.
    """
    url_column: str | None = None
    """Null: recognised among the common names (`URL`, `url`, `image_url`, ...); the empty text says
    that the rows are prompts, without URLs."""
    caption_column: str | None = None
    """Null: recognised (`TEXT`, `caption`, ...); the empty text says the list has no captions."""
    captions: Literal["first", "longest", "random"] | None = None
    """Of captions that are lists of texts: which of them a row has, `random` by its key. Keys are
    made of the first, whichever is chosen; all stand in `source_<column>`. Null: such a column is
    refused."""
    max_cell_bytes: int = Field(default=MAX_CELL_BYTES, ge=1, le=8 << 20)
    """A URL or caption of more bytes is its row's reason, `cell_too_large`; a larger value of any
    other column is null, and counted."""
    image_column: str | None = None
    """Of tables that hold their pictures; null: the one column that holds some."""
    content_hash: str | None = None
    """A column with the md5, sha1 or sha256 of the image file, in hex, told by its length."""
    csv: CsvConfig = CsvConfig()
    tar_grouping: TarGrouping | None = None
    """Which members of a tar are one sample: those that share a name up to its first dot, or up to
    its last one. Null: `first_dot`, and a sample with two images is refused; once named, the
    first image whose name has no further dot is taken, else the first, and the rest is said."""

    @field_validator("captions", mode="before")
    @classmethod
    def _one_text_a_row(cls, choice: object) -> object:
        if choice == "all":
            raise ValueError(
                "the latent cache holds one text a row, so that no row can be trained on any of "
                "several; give first, longest or random (the ledger keeps them all)"
            )
        return choice
