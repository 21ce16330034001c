"""What is told of pictures in a list beside them, by their file names: Hugging Face's ImageFolder.

`metadata.csv`, `metadata.jsonl` or `captions.jsonl`, in the pictures' folder or in one above it.
"""

import csv
import io
import posixpath
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import fsspec

from pipelines.sources.columns import clean_text
from pipelines.sources.config import SourceError
from pipelines.sources.csv_records import allow_long_fields
from pipelines.sources.files import SourceFile
from pipelines.sources.pictures import StoredFile
from sd_core.plain_json import parse_json

LIST_NAMES: Final = ("metadata.csv", "metadata.jsonl", "captions.jsonl")
NAME_FIELD: Final = "file_name"
_MAX_BYTES = 512 << 20

Fields = dict[str, Any]


def list_in(files: list[StoredFile], folder: SourceFile) -> StoredFile | None:
    """A folder's list; raises `SourceError` where it has several."""
    found = [file for file in files if file.name in LIST_NAMES]
    if len(found) > 1:
        raise SourceError(
            f"{folder.uri}: {' and '.join(file.name for file in found)} both tell of its pictures; "
            "keep one"
        )
    return found[0] if found else None


@lru_cache(maxsize=4)
def read_list_of_pictures(
    filesystem: fsspec.AbstractFileSystem, path: str, digest: str
) -> dict[str, Fields]:
    """File name, relative to the list's folder, to the other fields.

    Args:
        digest: Of the list's bytes, so that another version of it is read anew.

    Raises:
        SourceError: it cannot be read, or names no pictures.
    """
    shown = filesystem.unstrip_protocol(path)
    content: bytes = filesystem.cat_file(path)
    if len(content) > _MAX_BYTES:
        raise SourceError(f"{shown}: above {_MAX_BYTES} bytes; give each folder a list of its own")
    try:
        text = content.decode("utf-8-sig")
        lines = _csv(text) if path.endswith(".csv") else _json_lines(text, shown)
        return {posixpath.normpath(str(name)): fields for name, fields in lines}
    except KeyError:
        raise SourceError(
            f"{shown}: a line without {NAME_FIELD!r}: it names the picture that the others tell of"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{shown}: cannot be read: {error}; write it as UTF-8") from error


def _csv(text: str) -> Iterator[tuple[str, Fields]]:
    allow_long_fields()
    for line in csv.DictReader(io.StringIO(text, newline=""), strict=True):
        fields = {name: value for name, value in line.items() if isinstance(name, str)}
        yield fields.pop(NAME_FIELD), fields


def _json_lines(text: str, shown: str) -> Iterator[tuple[str, Fields]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{shown}: line {number} is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise SourceError(f"{shown}: line {number} is not a JSON object")
        yield fields.pop(NAME_FIELD), {clean_text(name) or "": v for name, v in fields.items()}
