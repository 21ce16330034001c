"""What was done to a run since it was planned: rows fetched again, rows taken down."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.run.store import RunStore

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
    """The run's; none where nothing happened to it."""
    try:
        tree = json.loads(store.read_bytes(AMENDMENTS_FILE))
    except FileNotFoundError:
        return Amendments()
    return Amendments(**{**tree, "before": tuple(tree["before"])})


def write_amendments(store: RunStore, amendments: Amendments) -> None:
    """Make them the run's."""
    content = json.dumps(asdict(amendments), indent=1, sort_keys=True) + "\n"
    store.replace(AMENDMENTS_FILE, content.encode())
