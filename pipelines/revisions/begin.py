"""Begin to amend a run: make again what failed in passing or was given up, or add to the list."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipelines.config import ConfigError
from pipelines.rows.ledger import RETRIED_REASONS
from pipelines.rules.tombstones import masked_key
from pipelines.run.amendments import Amendments, read_amendments, write_amendments
from pipelines.run.committed import Committed
from pipelines.run.record import StepSummary, read_revision, read_run, write_run
from pipelines.run.store import RunStore
from pipelines.steps.kinds import STEP_KINDS

FETCH_OPTIONS: Final = ("timeout_s", "retries", "max_bytes")
"""Options of the fetch that a retry may change: rows that are there stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """What is to be made again.

    Attributes:
        amendments: The run's, once the retry has begun; the caller writes them.
        told: What it is, for the user.
    """

    amendments: Amendments
    told: str


def plan_retry(store: RunStore, *, origin: str, download: Mapping[str, Any] | None = None) -> Retry:
    """What a retry makes again: rows that failed to be fetched for a reason that can pass, and
    the shards that any complete step gave up. Nothing is written.

    Where a retry has begun and is not complete, nothing is added to it.

    Args:
        origin: The step that makes the run's images.
        download: The present options of the fetch.

    Raises:
        ConfigError: the first step is not complete.
    """
    found, amendments = _recorded(store, origin), read_amendments(store)
    steps = read_revision(store).steps
    first = steps.get(origin)
    if found is None or first is None or first.fingerprint != found:
        if found is not None and (amendments.fetches_again or origin in amendments.lifted):
            return Retry(amendments=amendments, told="goes on with what was begun")
        raise ConfigError(
            f"--retry: the {origin} of {store.root} is not complete; run the job without it first"
        )
    lost = [
        name
        for name in STEP_KINDS
        if name != "download"
        and (step := steps.get(name)) is not None
        and step.quarantined
        and step.fingerprint == _recorded(store, name)
    ]
    lifted = {**amendments.lifted, **{name: amendments.lifted.get(name, 0) + 1 for name in lost}}
    told = [f"{len(steps[name].quarantined)} shard(s) of {name}" for name in lost]
    amendments = replace(amendments, lifted=lifted)
    if download is not None:
        more, failed = _fetched_again(store, amendments, first, download)
        told = [*(f"{reason} {rows:,}" for reason, rows in sorted(failed.items())), *told]
        amendments = more
    return Retry(
        amendments=amendments,
        told=", ".join(told) or "no row failed for a reason that can pass, no shard was given up",
    )


def _fetched_again(
    store: RunStore, amendments: Amendments, download: StepSummary, options: Mapping[str, Any]
) -> tuple[Amendments, Counter[str]]:
    """The amendments by which rows are fetched again, and those rows by reason."""
    before = read_run(store)["steps"]["download"]["options"]["download"]
    is_more = options["max_bytes"] > before.get("max_bytes", options["max_bytes"])
    also = ("body_too_large",) if is_more else ()
    retried = {*RETRIED_REASONS, *also, "shard_quarantined"}
    failed = Counter({name: rows for name, rows in download.dropped.items() if name in retried})
    if not failed and all(options[name] == before.get(name) for name in FETCH_OPTIONS):
        return amendments, failed
    again = replace(
        amendments,
        retries=amendments.retries + 1,
        before=(download.fingerprint,),
        fetches_again=True,
        also_again=also,
    )
    return again, failed


def begin_growth(store: RunStore) -> None:
    """Have the next download take over the shards that are there, under a plan with more rows."""
    found, amendments = _recorded(store, "download"), read_amendments(store)
    if found is None:
        return
    download = read_revision(store).steps.get("download")
    is_complete = download is not None and download.fingerprint == found
    earlier = () if is_complete else amendments.before
    before = tuple(dict.fromkeys((found, *earlier)))
    write_amendments(store, replace(amendments, before=before, fetches_again=False))


def begin_more(store: RunStore, *, is_same: bool) -> None:
    """Have the next download be of more rows of the list, and take over what it may.

    Args:
        is_same: Whether the shards that are there are those of the plan with more rows.
    """
    if is_same:
        begin_growth(store)
    elif run := read_run(store):  # its options are another's, and all is made again
        write_run(store, {**run, "steps": {}})


def planned_before(store: RunStore) -> Callable[[int, Sequence[str]], bool]:
    """Whether a shard had rows of these keys, as far as its facts are there to tell."""
    fingerprint = _recorded(store, "download")
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


def _recorded(store: RunStore, step: str) -> str | None:
    recorded = read_run(store).get("steps", {}).get(step)
    return None if recorded is None else str(recorded["fingerprint"])
