"""Which way in fits what lies at a path, for those who named another."""

import posixpath
from collections.abc import Sequence
from typing import Final

from pipelines.sources.columns import URL_NAMES
from pipelines.sources.config import SourceError
from pipelines.sources.files import suffix_of
from pipelines.sources.pictures import is_picture
from pipelines.sources.source_format import SourceFormat

_PARQUET: Final = ("parquet", "parquet_images", "img2dataset")
_TEXTS: Final = ("csv", "jsonl", "text")
_KINDS: Final[dict[str, tuple[str, Sequence[str]]]] = {
    ".parquet": ("Parquet", _PARQUET),
    ".csv": ("CSV", _TEXTS),
    ".tsv": ("CSV", _TEXTS),
    ".jsonl": ("JSON lines", _TEXTS),
    ".ndjson": ("JSON lines", _TEXTS),
    ".txt": ("text", _TEXTS),
    ".json": ("JSON", ()),
    ".tar": ("tars", ("webdataset",)),
    ".tgz": ("tars", ("webdataset",)),
    ".arrow": ("Arrow", ("huggingface", "huggingface_urls")),
    ".zip": ("archives", ("none",)),
    ".xlsx": ("spreadsheets", ("none",)),
}
"""By suffix what a file is, and the formats that may read it."""
_ADVICE: Final = {
    "Parquet": "set it to parquet for a list of URLs, to parquet_images where it has pictures",
    "CSV": "set it to csv",
    "JSON lines": "set it to jsonl",
    "text": "set it to text, for a URL a line",
    "tars": "set it to webdataset",
    "pictures": "set it to folder, with the path of the folder that holds them",
    "Arrow": "give the folder that `datasets` wrote with save_to_disk, as huggingface, or write it "
    "as Parquet",
    "JSON": "jsonl reads it where each line is an object",
    "archives": "unpack it and give the folder",
    "spreadsheets": "save it as CSV",
}
_NO_KIND: Final = ("files of that name", ())
_RUN_FILE: Final = "revision.json"


def refuse_unfit(
    names: Sequence[str], chosen: Sequence[str], asked: str, kind: SourceFormat, *, where: str
) -> None:
    """Raise `SourceError` where none of the files is of a kind that the asked format reads.

    Args:
        names: Everything that lies there.
        chosen: What the format takes of it.
        asked: The format's name.
        kind: The format.
        where: The option and what it names, for the message.
    """
    kinds = [_kind_of(name) for name in chosen]
    if chosen and (
        any(asked in formats for _, formats in kinds)
        or all(not formats for _, formats in kinds)
        or any(suffix_of(name) in kind.suffixes for name in chosen)
    ):
        return
    name = next((n for n in (*chosen, *names) if _kind_of(n)[1]), names[0])
    what, _ = _kind_of(name)
    shown = f"{what} ({posixpath.basename(name)})"
    if where.startswith("captions."):
        raise SourceError(f"{where}: holds {shown}; it takes Parquet")
    section = where.partition(".")[0]
    raise SourceError(
        f"{where}: {section}.format is {asked}, which does not read {shown}; "
        f"{_ADVICE.get(what, 'set it to another, or leave it out')}"
    )


def refuse_unknown(names: Sequence[str], known: Sequence[str], *, where: str) -> None:
    """Raise `SourceError` where no file's name says of which format it is; says what to do."""
    advice = next((_ADVICE.get(_kind_of(name)[0]) for name in names), None)
    section = where.partition(".")[0]
    raise SourceError(
        f"{where}: the format of {', '.join(names[:3])} cannot be told from its name; "
        f"allowed are {', '.join(known)} (.gz, .bz2, .zst after them), or set {section}.format"
        + (f"; {advice}" if advice else "")
    )


def refuse_several(names: Sequence[str], kinds: Sequence[str], *, where: str) -> None:
    """Raise `SourceError` where files of several formats lie at one place; says what to do."""
    if _RUN_FILE in {posixpath.basename(name) for name in names}:
        raise SourceError(
            f"{where}: a run of ours; give the `images` folder in it, or what jobs/export.py wrote "
            "of it"
        )
    section = where.partition(".")[0]
    raise SourceError(
        f"{where}: holds files of several formats ({', '.join(kinds)}); "
        f"set {section}.format, or give a glob of those that are meant"
    )


def advice_without_pictures(columns: Sequence[str], kind: str) -> str:
    """What to do with a table of that format that holds no pictures; empty where nothing is known.

    Args:
        columns: The names of its columns.
        kind: Its format.
    """
    if {"key", "status"} <= {*columns}:
        return "; img2dataset wrote it: set source.format to img2dataset"
    if not any(name.strip().lower() in URL_NAMES for name in columns):
        return ""
    other = "parquet" if kind == "parquet_images" else "huggingface_urls"
    return f"; to fetch its URLs set source.format to {other}"


def _kind_of(name: str) -> tuple[str, Sequence[str]]:
    """What a file is by its name, and the formats that may read it."""
    if is_picture(name):
        return "pictures", ("folder",)
    return _KINDS.get(suffix_of(name) or "", _NO_KIND)
