"""Begin to amend a run: fetch again what failed in passing, or add files to the list."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipelines.config import ConfigError
from pipelines.rows.ledger import RETRIED_REASONS
from pipelines.rules.tombstones import masked_key
from pipelines.run.amendments import read_amendments, write_amendments
from pipelines.run.committed import Committed
from pipelines.run.record import read_revision, read_run
from pipelines.run.store import RunStore


def begin_retry(store: RunStore) -> Counter[str]:
    """Have the next download fetch again the rows that failed for a reason that can pass.

    Returns:
        How many rows that is by reason (whole shards where one was given up). Where it is none, or
        a retry has begun and is not complete, nothing changes.

    Raises:
        ConfigError: the download is not complete.
    """
    found, amendments = _recorded_download(store), read_amendments(store)
    download = read_revision(store).steps.get("download")
    if found is None or download is None or download.fingerprint != found:
        if found is not None and amendments.fetches_again:
            return Counter()
        raise ConfigError(
            f"--retry: the download of {store.root} is not complete; run the job without it first"
        )
    retried = {*RETRIED_REASONS, "shard_quarantined"}
    failed = Counter({name: rows for name, rows in download.dropped.items() if name in retried})
    if failed:
        write_amendments(
            store,
            replace(
                amendments, retries=amendments.retries + 1, before=(found,), fetches_again=True
            ),
        )
    return failed


def begin_growth(store: RunStore) -> None:
    """Have the next download take over the shards that are there, under a plan with more rows."""
    found, amendments = _recorded_download(store), read_amendments(store)
    if found is None:
        return
    download = read_revision(store).steps.get("download")
    is_complete = download is not None and download.fingerprint == found
    earlier = () if is_complete else amendments.before
    before = tuple(dict.fromkeys((found, *earlier)))
    write_amendments(store, replace(amendments, before=before, fetches_again=False))


def planned_before(store: RunStore) -> Callable[[int, Sequence[str]], bool]:
    """Whether a shard had rows of these keys, as far as its facts are there to tell."""
    fingerprint = _recorded_download(store)
    made = None if fingerprint is None else Committed(store, "download", fingerprint)

    def same_rows(shard_id: int, keys: Sequence[str]) -> bool:
        if made is None or made.find(shard_id) is None:
            return True
        facts = made.table(shard_id, "facts/download", columns=["key"])
        if facts is None:
            return True
        known = facts["key"].to_pylist()
        pairs = zip(known, keys, strict=False)
        return len(known) == len(keys) and all(k in (key, masked_key(key)) for k, key in pairs)

    return same_rows


def _recorded_download(store: RunStore) -> str | None:
    recorded = read_run(store).get("steps", {}).get("download")
    return None if recorded is None else str(recorded["fingerprint"])
