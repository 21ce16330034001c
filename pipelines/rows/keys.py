"""The key of a row: a stable name that follows it from the list to the generated image.

`key` = BLAKE2b-64 of the length-prefixed, unnormalised URL and caption, written as 16 hex
digits. Null is its own tag, so that a missing caption and an empty one differ. A row without a
URL hashes its source's name and its own name in that source instead.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

KEY_BYTES = 8
CHECK_BYTES = 16
MAX_PROMPT_KEY_CHARS: Final = 80
ROW_KEY: Final = "[0-9a-f]{16}"
PROMPT_KEY: Final = f"[A-Za-z0-9_-]{{1,{MAX_PROMPT_KEY_CHARS}}}"
KEY: Final = f"^(?:{ROW_KEY}|{PROMPT_KEY}-[0-9]+)$"
"""A curated row's, or that of an image of a prompt, for Arrow alone: in Python `$` is also before
a line end."""

_NULL = b"\x00"
_TEXT = b"\x01"
_NAMED = b"\x02"


def is_key(text: str, form: str) -> bool:
    """Whether a text is a key of one of the forms `ROW_KEY` and `PROMPT_KEY`, and nothing more."""
    return re.fullmatch(form, text) is not None


def blake2b_64(text: bytes) -> bytes:
    """The first-class hash of a row's text: 8 bytes."""
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


@dataclass(frozen=True, kw_only=True)
class RowHashes:
    """Hashes of a block of rows, one element a row.

    Attributes:
        key: `S8`, the bytes whose hex digits are the row's key.
        check: `S16`, a second, independent hash that tells the same text from a collision.
    """

    key: npt.NDArray[np.bytes_]
    check: npt.NDArray[np.bytes_]


def key_texts(
    urls: pa.Array, *, captions: pa.Array, source_name: str, names: Iterable[str]
) -> list[bytes]:
    """What each row's hashes are taken of.

    Args:
        urls: Strings; null for a row without a URL.
        captions: Strings or null, as long as `urls`.
        source_name: The source file's name within the source; used for rows without a URL.
        names: Each row's name within that file (member key, or row number).
    """
    named = _NAMED + _field(source_name.encode())
    url_bytes = urls.cast(pa.large_binary()).to_pylist()
    caption_bytes = captions.cast(pa.large_binary()).to_pylist()
    if urls.null_count == 0:
        return [
            _field(url) + _field(caption)
            for url, caption in zip(url_bytes, caption_bytes, strict=True)
        ]
    return [
        named + _field(name.encode()) if url is None else _field(url) + _field(caption)
        for url, caption, name in zip(url_bytes, caption_bytes, names, strict=True)
    ]


def hash_keys(texts: list[bytes]) -> npt.NDArray[np.bytes_]:
    """The keys' bytes, `S8`, of `key_texts`."""
    return np.frombuffer(b"".join(map(blake2b_64, texts)), dtype=f"S{KEY_BYTES}")


def hash_rows(texts: list[bytes]) -> RowHashes:
    """Keys and check hashes of `key_texts`; about 2 s for a million rows."""
    blake2b = hashlib.blake2b
    checks = b"".join([blake2b(text, digest_size=CHECK_BYTES).digest() for text in texts])
    return RowHashes(
        key=hash_keys(texts),
        check=np.frombuffer(checks, dtype=f"S{CHECK_BYTES}"),
    )


def hex_keys(keys: npt.NDArray[np.bytes_]) -> pa.Array:
    """The keys as an Arrow string column of 16 hex digits each."""
    digits = keys.tobytes().hex().encode()
    width = 2 * KEY_BYTES
    offsets = np.arange(0, len(digits) + 1, width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(keys), pa.py_buffer(offsets), pa.py_buffer(digits))


def _field(value: bytes | None) -> bytes:
    if value is None:
        return _NULL
    return _TEXT + len(value).to_bytes(8, "little") + value
