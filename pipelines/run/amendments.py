"""What was done to a run since it was planned: rows fetched again, rows taken down, shards that
were given up made again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pipelines.run.store import RunStore
from pipelines.run.stored_json import damaged_record, read_json, write_json

AMENDMENTS_FILE = "edition.json"
"""As earlier versions called them; so does the option of a step that they are."""
OPTION: Final = "edition"
LIFTED: Final = f"{OPTION}.lifted"
"""The option by which a step's shards that were given up are made again."""


@dataclass(frozen=True, kw_only=True)
class Amendments:
    """The state of a run's list and rows; part of download's options once anything happened.

    Attributes:
        retries: How often what failed was fetched again.
        tombstones: Digest of what was taken down.
        before: Fingerprints of the downloads whose shards are taken over, the latest
            first.
        fetches_again: Whether shards with rows that failed in passing are not taken over.
        also_again: Reasons beside `RETRIED_REASONS` of the rows that are fetched again.
        lifted: How often each later step was asked to make again what it had given up.
    """

    retries: int = 0
    tombstones: str | None = None
    before: tuple[str, ...] = ()
    fetches_again: bool = False
    also_again: tuple[str, ...] = ()
    lifted: Mapping[str, int] = field(default_factory=dict)

    def identity(self, step: str, *, is_first: bool, times: int | None = None) -> dict[str, Any]:
        """As options of a step; empty where nothing happened to it.

        Args:
            is_first: Whether it makes the run's images.
            times: As if it had been asked so often to make again what it gave up.
        """
        lifted = self.lifted.get(step, 0) if times is None else times
        told: dict[str, Any] = {"lifted": lifted} if lifted else {}
        if is_first and self.retries:
            told["retries"] = self.retries
        if is_first and self.tombstones is not None:
            told["tombstones"] = self.tombstones
        return {OPTION: told} if told else {}


def read_amendments(store: RunStore) -> Amendments:
    """The run's; none where nothing happened to it. Raises `DamagedRecordError`."""
    try:
        tree = read_json(store, AMENDMENTS_FILE)
        tuples = {name: tuple(tree.get(name, ())) for name in ("before", "also_again")}
        return Amendments(**{**tree, **tuples})
    except FileNotFoundError:
        return Amendments()
    except (TypeError, KeyError) as error:
        raise damaged_record(store, AMENDMENTS_FILE, str(error)) from error


def write_amendments(store: RunStore, amendments: Amendments) -> None:
    """Make them the run's."""
    write_json(store, AMENDMENTS_FILE, asdict(amendments))
