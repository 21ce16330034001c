"""The small JSON files of a run: written sealed, and read by what they say of themselves."""

from collections.abc import Mapping
from typing import Any

from pipelines.run.store import RunStore
from sd_core.errors import InputError
from sd_core.sealed import SealError, seal_tree, unseal


class DamagedRecordError(InputError, ValueError):
    """A small file of a run is torn or damaged, or none that this program writes.

    Attributes:
        found: What is wrong with it.
    """

    found: str = ""


def read_json(store: RunStore, path: str) -> dict[str, Any]:
    """The mapping in a file, without its seal.

    Raises:
        FileNotFoundError: there is none.
        DamagedRecordError: it is torn or damaged, or holds no mapping.
    """
    try:
        tree = unseal(store.read_bytes(path))
    except SealError as error:
        raise damaged_record(store, path, str(error)) from error
    except ValueError as error:
        raise damaged_record(store, path, f"not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise damaged_record(store, path, "no mapping")
    return tree


def write_json(store: RunStore, path: str, tree: Mapping[str, Any]) -> None:
    """Replace a file by a mapping, sealed."""
    store.replace(path, seal_tree(tree))


def damaged_record(store: RunStore, path: str, found: str) -> DamagedRecordError:
    """The error of a file that is not what this program writes."""
    error = DamagedRecordError(
        f"{store.told(path)}: not a record of a run ({found}); put it back as it was, or give "
        "another folder"
    )
    error.found = found
    return error
