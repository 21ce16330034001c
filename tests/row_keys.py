"""The key of one row."""

import pyarrow as pa

from pipelines.rows.keys import blake2b_64, key_texts


def row_key(url: str | None, *, caption: str | None, source_name: str = "", name: str = "") -> str:
    """The key of one row, as 16 hex digits."""
    texts = key_texts(
        pa.array([url], pa.string()),
        captions=pa.array([caption], pa.string()),
        source_name=source_name,
        names=[name],
    )
    return blake2b_64(texts[0]).hex()
