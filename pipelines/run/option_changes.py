"""How two trees of options differ, as lines for their user."""

import json
from collections.abc import Mapping
from typing import Any


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each option that differs: `name: was X, is now Y`."""
    old, new = _flatten(before), _flatten(now)
    return [
        f"{name}: was {_show(old, name)}, is now {_show(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) or (name in old) != (name in new)
    ]


def _show(flat: Mapping[str, Any], name: str) -> str:
    return json.dumps(flat[name]) if name in flat else "not set"


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        flat: dict[str, Any] = {}
        for name, value in tree.items():
            flat |= _flatten(value, f"{prefix}.{name}" if prefix else str(name))
        return flat
    if not prefix:
        return {}
    return {prefix: list(tree) if isinstance(tree, tuple) else tree}
