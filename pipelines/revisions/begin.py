"""Begin a new edition of a run: fetch again what failed in passing, or add files to the list."""

from dataclasses import replace

from pipelines.config import ConfigError
from pipelines.ledger import RETRIED_REASONS
from pipelines.revisions.edition import read_edition, write_edition
from pipelines.run import read_revision, read_run
from pipelines.storage import RunStore


def begin_retry(store: RunStore) -> int:
    """Have the next download fetch again the rows that failed for a reason that can pass.

    Returns:
        How many rows that is (whole shards where one was given up); where it is 0 nothing changes.

    Raises:
        ConfigError: the download is not complete.
    """
    found = _recorded_download(store)
    download = read_revision(store).steps.get("download")
    if found is None or download is None or download.fingerprint != found:
        raise ConfigError(
            f"--retry: the download of {store.root} is not complete; run the job without it first"
        )
    retried = {*RETRIED_REASONS, "shard_quarantined"}
    failed = sum(count for reason, count in download.dropped.items() if reason in retried)
    if failed:
        edition = read_edition(store)
        write_edition(
            store,
            replace(edition, retries=edition.retries + 1, before=found, fetches_again=True),
        )
    return failed


def begin_growth(store: RunStore) -> None:
    """Have the next download take over the present one's shards, under a plan with more files.

    Raises:
        ConfigError: an earlier retry or growth is not complete.
    """
    found = _recorded_download(store)
    if found is None:
        return
    edition = read_edition(store)
    download = read_revision(store).steps.get("download")
    is_complete = download is not None and download.fingerprint == found
    if edition.before is not None and not is_complete and edition.before != found:
        raise ConfigError(
            f"--grow: an earlier retry or growth of {store.root} is not complete; run the job "
            "without it first"
        )
    write_edition(store, replace(edition, before=found, fetches_again=False))


def _recorded_download(store: RunStore) -> str | None:
    recorded = read_run(store).get("steps", {}).get("download")
    return None if recorded is None else str(recorded["fingerprint"])
