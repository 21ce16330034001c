"""Secrets out of tables and configurations that are stored; `sd_core/redact.py` knows them."""

from collections.abc import Callable, Mapping
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from sd_core.redact import MAY_HOLD_SECRET, REDACTED, redact_text, redact_url
from sd_core.secret_names import is_secret_key


def redact_url_column(urls: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`redact_url` over a string column; rows that cannot hold a secret cost one regex match."""
    return _map_matching(urls, redact_url)


def redact_text_column(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`redact_text` over a string column; rows that cannot hold a secret cost one regex match."""
    return _map_matching(texts, redact_text)


def redact_config(config: Mapping[str, object]) -> dict[str, object]:
    """The configuration fit for `run.json`: values of secret keys and URL credentials replaced.

    Of `storage_options` only the names stay: any of them may be a secret (`connection_string`).
    The names in `thresholds` are columns.
    """
    return cast("dict[str, object]", _redact_value(config))


def _map_matching(column: pa.Array | pa.ChunkedArray, redact: Callable[[str], str]) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    matches = pc.fill_null(pc.match_substring_regex(array, MAY_HOLD_SECRET), False)
    if not pc.any(matches).as_py():
        return array
    found = array.filter(matches)
    changed = [redact(text) for text in found.to_pylist()]
    return pc.replace_with_mask(array, matches, pa.array(changed, type=array.type))


def _redact_value(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _redact_item(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_value(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def _redact_item(key: str, value: object) -> object:
    if key == "storage_options" and isinstance(value, Mapping):
        return {str(name): REDACTED for name in value}
    if key == "thresholds" and isinstance(value, Mapping):  # by column: `source_pass` is no secret
        return {str(name): _redact_value(bounds) for name, bounds in value.items()}
    if (is_secret_key(key) or key == "storage_options") and not _is_empty(value):
        return REDACTED
    return _redact_value(value)


def _is_empty(value: object) -> bool:
    return value is None or value in ("", {}, [])
