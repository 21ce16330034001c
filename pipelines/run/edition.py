"""What was done to a run since it was planned: rows fetched again, rows taken down."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.run.store import RunStore

EDITION_FILE = "edition.json"


@dataclass(frozen=True, kw_only=True)
class Edition:
    """The state of a run's list and rows; part of download's options once anything happened.

    Attributes:
        retries: How often what failed was fetched again.
        tombstones: Digest of what was taken down.
        before: Fingerprints of the downloads whose shards this edition takes over, the latest
            first.
        fetches_again: Whether shards with rows that failed in passing are not taken over.
    """

    retries: int = 0
    tombstones: str | None = None
    before: tuple[str, ...] = ()
    fetches_again: bool = False

    def identity(self) -> dict[str, Any]:
        """As options of the download step; empty where nothing happened."""
        edition: dict[str, Any] = {}
        if self.retries:
            edition["retries"] = self.retries
        if self.tombstones is not None:
            edition["tombstones"] = self.tombstones
        return {"edition": edition} if edition else {}


def read_edition(store: RunStore) -> Edition:
    """The run's edition; the first where nothing happened to it."""
    try:
        tree = json.loads(store.read_bytes(EDITION_FILE))
    except FileNotFoundError:
        return Edition()
    return Edition(**{**tree, "before": tuple(tree["before"])})


def write_edition(store: RunStore, edition: Edition) -> None:
    """Make an edition the run's."""
    content = json.dumps(asdict(edition), indent=1, sort_keys=True) + "\n"
    store.replace(EDITION_FILE, content.encode())
