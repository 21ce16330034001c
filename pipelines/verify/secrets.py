"""Secrets that should not be there: anything that redaction would still change."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.redact import redact_config, redact_text_column, redact_url_column
from pipelines.verify.fault import Fault, Secret
from sd_core.redact import redact_text

_EXPECTED = "URLs without credentials or signed values"
_URL_COLUMNS = ("url", "final_url")


def check_table_secrets(table: pa.Table, *, where: str) -> Iterator[Fault]:
    """No string column holds a URL with credentials; the value itself is never shown."""
    for name in table.column_names:
        column = table[name].combine_chunks()
        if not pa.types.is_string(column.type):
            continue
        redact = redact_url_column if name in _URL_COLUMNS else redact_text_column
        changed = pc.fill_null(pc.not_equal(redact(column), column), False)
        rows = np.flatnonzero(np.asarray(changed))
        if len(rows):
            yield Secret(
                where,
                f"column {name} holds a secret in {len(rows)} row(s), first row {rows[0]}",
                _EXPECTED,
            )


def check_tree_secrets(tree: Any, *, where: str) -> Iterator[Fault]:
    """No text anywhere in a JSON tree holds a URL with credentials."""
    for name, text in _texts(tree, ""):
        if redact_text(text) != text:
            yield Fault(where, f"{name.strip('.')} holds a secret", _EXPECTED)


def check_config_secrets(config: Mapping[str, Any], *, where: str) -> Iterator[Fault]:
    """Besides, no option whose name says that it is a secret has a value in a stored record."""
    if json.dumps(redact_config(config)) != json.dumps(config):
        yield Fault(where, "an option's value is a secret", "REDACTED in its place")


def _texts(tree: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, str):
        yield name, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _texts(value, f"{name}.{key}")
    elif isinstance(tree, list | tuple):
        for at, value in enumerate(tree):
            yield from _texts(value, f"{name}.{at}")
