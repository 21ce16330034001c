"""What was done to a run since it was planned: rows fetched again, rows taken down."""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.run.store import RunStore
from pipelines.run.stored_json import damaged_record, read_json, write_json

AMENDMENTS_FILE = "edition.json"
"""As earlier versions called them; so does the option of download that they are."""


@dataclass(frozen=True, kw_only=True)
class Amendments:
    """The state of a run's list and rows; part of download's options once anything happened.

    Attributes:
        retries: How often what failed was fetched again.
        tombstones: Digest of what was taken down.
        before: Fingerprints of the downloads whose shards are taken over, the latest
            first.
        fetches_again: Whether shards with rows that failed in passing are not taken over.
    """

    retries: int = 0
    tombstones: str | None = None
    before: tuple[str, ...] = ()
    fetches_again: bool = False

    def identity(self) -> dict[str, Any]:
        """As options of the download step; empty where nothing happened."""
        amendments: dict[str, Any] = {}
        if self.retries:
            amendments["retries"] = self.retries
        if self.tombstones is not None:
            amendments["tombstones"] = self.tombstones
        return {"edition": amendments} if amendments else {}


def read_amendments(store: RunStore) -> Amendments:
    """The run's; none where nothing happened to it. Raises `DamagedRecordError`."""
    try:
        tree = read_json(store, AMENDMENTS_FILE)
        return Amendments(**{**tree, "before": tuple(tree["before"])})
    except FileNotFoundError:
        return Amendments()
    except (TypeError, KeyError) as error:
        raise damaged_record(store, AMENDMENTS_FILE, str(error)) from error


def write_amendments(store: RunStore, amendments: Amendments) -> None:
    """Make them the run's."""
    write_json(store, AMENDMENTS_FILE, asdict(amendments))
