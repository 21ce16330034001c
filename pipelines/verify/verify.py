"""The whole of a run, streamed: each shard once, then what only all of them together say."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.plan import Plan
from pipelines.prompts import PromptPlan
from pipelines.rows.ledger import QUARANTINED
from pipelines.run.crops import CROPS_FILE, read_removed
from pipelines.run.folder import require_run
from pipelines.run.lease import LEASE_FILE
from pipelines.run.manifest import Manifest
from pipelines.run.on_threads import in_order
from pipelines.run.record import RUN_FILE, Revision, StepSummary
from pipelines.run.schemas import Columns, read_schemas
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.run.stored_json import DamagedRecordError
from pipelines.steps.kinds import STEP_KINDS
from pipelines.verify.copies import check_copies, check_named_copies, forbids_copies
from pipelines.verify.fault import Fault, Note, Secret, ShownFault, limit
from pipelines.verify.index import StepTotals, check_indexes, check_totals
from pipelines.verify.keys import KeySpill, key_digits
from pipelines.verify.latents import LatentsCheck, load_cache_files
from pipelines.verify.readers import check_readers
from pipelines.verify.records import RunRecords, asked_sizes, promised_tokens, read_records
from pipelines.verify.shard import ShardCheck, shard_steps
from pipelines.verify.training import is_training, verify_training
from pipelines.verify.words import check_words


@dataclass(frozen=True, kw_only=True)
class _Totals:
    """What the shards add up to."""

    steps: dict[str, StepTotals]
    stored: KeySpill
    kept: KeySpill
    kept_hashes: KeySpill
    named: KeySpill
    standing: KeySpill
    """Keys that a copy may name: of kept rows, and of rows that were taken down."""
    encoded: KeySpill


def verify_run(store: RunStore, *, deep: bool) -> Iterator[Fault | Note]:
    """Every promise of a run, or of a training, that can be read off its files; yields what
    breaks one.

    Memory does not grow with the rows: keys are compared on local disk (48 bytes a row with
    `deep`), and a shard's tables and one image of each thread are held at a time.

    Args:
        deep: Also read every file whole: hashes, Parquet, tars, images, keys, latents, secrets.

    Raises:
        NotARunError: there is no run.json, no revision.json and no plan.
    """
    for found in _verify(store, deep=deep):
        yield _placed(store, found)


def _verify(store: RunStore, *, deep: bool) -> Iterator[Fault | Note]:
    if not is_training(store, None):  # perhaps one that has lost its run.json
        require_run(store)
    records = read_records(store)
    training = is_training(store, records.run)
    yield from (each for each in records.faults if not training or each.where == RUN_FILE)
    if not training:
        yield from check_words(store)
    if store.exists(LEASE_FILE):
        yield Note(LEASE_FILE, "a job holds this run, or was killed; only what is complete counts")
    if training:
        yield from verify_training(store, deep=deep)
        return
    yield from _newer_options(records)
    if records.revision is None or records.plan is None:
        return
    try:
        removed = read_removed(store)
    except DamagedRecordError as error:
        yield Fault(CROPS_FILE, error.found, "what a clean-up removed")
        return
    if removed is not None:
        yield Note(CROPS_FILE, f"clean --crops removed {removed.told}; the kept ones are checked")
    yield from _made_before(records.revision)
    yield from _check_rows(store, records, records.revision, records.plan, deep=deep)


def _check_rows(
    store: RunStore,
    records: RunRecords,
    revision: Revision,
    plan: Plan | PromptPlan,
    *,
    deep: bool,
) -> Iterator[Fault | Note]:
    """Every shard of every step, then what only all of them together say."""
    schemas, faults = _kept_schemas(store, revision.steps)
    yield from faults
    with spool_folder() as folder:
        totals = _Totals(
            steps={name: StepTotals() for name in revision.steps if name in STEP_KINDS},
            stored=KeySpill(folder, name="stored"),
            kept=KeySpill(folder, name="kept"),
            kept_hashes=KeySpill(folder, name="kept-hashes"),
            named=KeySpill(folder, name="named"),
            standing=KeySpill(folder, name="standing"),
            encoded=KeySpill(folder, name="encoded"),
        )
        check = ShardCheck(
            store=store,
            plan=plan,
            steps=revision.steps,
            deep=deep,
            sizes=asked_sizes(records.run),
            tokens=promised_tokens(records.run, revision.steps.get("select")),
            schemas=schemas,
        )
        yield from _check_shards(check, totals)
        if "encode" in totals.steps:
            yield from _check_latents(check, totals)
        yield from _check_whole(check, records.run, totals)


def _placed(store: RunStore, found: Fault | Note) -> Fault | Note:
    """The same, of a file where it lies."""
    first = found.where.partition("/")[0]
    if isinstance(found, ShownFault) or first == found.where or ":" in first:
        return found
    return replace(found, where=store.place(found.where))


def _kept_schemas(
    store: RunStore, steps: Mapping[str, StepSummary]
) -> tuple[dict[str, list[Columns]], list[Fault]]:
    """What the run keeps of the columns of each folder's tables, and what is damaged of it."""
    found: dict[str, list[Columns]] = {}
    faults = []
    for name in steps.keys() & STEP_KINDS.keys():
        for folder in STEP_KINDS[name].paths:
            fingerprint = steps[name].fingerprint
            try:
                found[folder] = read_schemas(
                    store, step=name, fingerprint=fingerprint, folder=folder
                )
            except DamagedRecordError as error:
                path = f"manifests/{name}/{fingerprint}"
                faults.append(Fault(path, f"{folder}: {error.found}", "the columns of its tables"))
    return found, faults


def _made_before(revision: Revision) -> Iterator[Note]:
    if not revision.steps:
        yield Note("revision.json", "no step is complete yet")
    if before := [name for name, step in revision.steps.items() if not step.digests]:
        text = f"{', '.join(before)} made before lists and records had digests: they are not held"
        yield Note("revision.json", f"{text} against any")


def _newer_options(records: RunRecords) -> Iterator[Note]:
    recorded = (records.run or {}).get("steps", {})
    for name, step in records.revision.steps.items() if records.revision else ():
        if name in recorded and recorded[name].get("fingerprint") != step.fingerprint:
            yield Note(f"run.json: {name}", "its options are those of a revision not complete yet")


def _check_shards(check: ShardCheck, totals: _Totals) -> Iterator[Fault | Note]:
    num_shards = check.plan.num_shards
    names = [name for name in shard_steps() if name in totals.steps]
    for name in names:
        where, found = f"revision.json: {name}", check.steps[name].num_shards
        if found > num_shards:
            yield Fault(where, f"{found} shards", f"the plan's {num_shards}")
        elif found < num_shards:  # its sums and lists are held against as many manifests
            yield Note(where, f"{found} of the plan's {num_shards} shards: a growth has begun")
    knew = all(step.digests for step in check.steps.values())
    for report in in_order(check, range(num_shards), num_threads=_num_threads(check)):
        yield from (fault if knew else _as_known_then(fault) for fault in report.faults)
        for name in names:
            if report.shard_id < check.steps[name].num_shards:
                _count(totals.steps[name], report.manifests.get(name))
        totals.stored.add(report.shard_id, report.stored_keys)
        totals.kept.add(report.shard_id, report.kept_keys)
        totals.kept_hashes.add(report.shard_id, report.kept_hashes)
        totals.named.add(report.shard_id, report.named_keys)
        totals.standing.add(report.shard_id, (*report.kept_keys, *report.gone_keys))


def _as_known_then(fault: Fault) -> Fault | Note:
    """Of a run made before digests: fewer signatures were known as secrets then."""
    if not isinstance(fault, Secret):
        return fault
    return Note(fault.where, f"{fault.found}, which was not known as one when it was written")


def _check_latents(shards: ShardCheck, totals: _Totals) -> Iterator[Fault]:
    faults: list[Fault] = []
    summary = shards.steps["encode"]
    spec = load_cache_files(shards.store, summary, faults)
    yield from faults
    check = LatentsCheck(held=shards.held["encode"], spec=spec)
    for report in in_order(check, range(summary.num_shards), num_threads=_num_threads(shards)):
        yield from report.faults
        _count(totals.steps["encode"], report.manifest)
        totals.encoded.add(report.shard_id, key_digits(report.keys))


def _check_whole(
    check: ShardCheck, run: Mapping[str, Any] | None, totals: _Totals
) -> Iterator[Fault | Note]:
    steps, store = check.steps, check.store
    for name, found in totals.steps.items():
        yield from check_totals(name, steps[name], found)
        yield from check_indexes(store, name, found, steps[name])
        yield from (
            Note(f"{name} shard {shard_id}", "quarantined") for shard_id in found.quarantined
        )
    yield from _check_encode_rows(steps)
    yield from check_readers(store, totals.steps, deep=check.deep)
    if check.deep:
        yield from limit(_check_stored_keys(totals), "images")
        yield from limit(check_named_copies(totals.named, totals.standing), "ledger")
        if forbids_copies(run, steps.get("select")):
            copies = check_copies(store, steps["select"], totals.kept_hashes)
            yield from limit(copies, "ledger")
        if "encode" in steps:
            yield from limit(_check_encoded_keys(totals), "latents")


def _check_encode_rows(steps: Mapping[str, StepSummary]) -> Iterator[Fault]:
    encode, select = steps.get("encode"), steps.get("select")
    if encode is not None and select is not None and encode.rows_in != select.kept:
        found = f"{encode.rows_in} rows in"
        yield Fault("revision.json: encode", found, f"select's kept rows, {select.kept}")


def _check_stored_keys(totals: _Totals) -> Iterator[Fault]:
    for place in totals.stored.repeated():
        shards = f"shards {place.shard_id} and {place.other_shard}"
        yield Fault(f"images: key {place.key}", f"stored twice, in {shards}", "once in the run")


def _check_encoded_keys(totals: _Totals) -> Iterator[Fault]:
    for place in totals.encoded.repeated():
        shards = f"shards {place.shard_id} and {place.other_shard}"
        yield Fault(f"latents: key {place.key}", f"encoded twice, in {shards}", "once")
    for place in totals.encoded.missing_from(totals.kept):
        found = f"encoded in shard {place.shard_id}, not kept by the ledger"
        yield Fault(f"latents: key {place.key}", found, "kept rows only")
    lost = totals.steps["encode"].dropped[QUARANTINED]
    missing = totals.kept.missing_from(totals.encoded)
    if not lost:
        for place in missing:
            found = f"kept in shard {place.shard_id}, neither encoded nor rejected"
            yield Fault(f"latents: key {place.key}", found, "one or the other")
        return
    num_missing = sum(1 for _ in missing)
    if num_missing != lost:
        found = f"{num_missing} kept rows neither encoded nor rejected"
        yield Fault("latents", found, f"the {lost} of quarantined shards")


def _count(totals: StepTotals, manifest: Manifest | None) -> None:
    if manifest is not None:
        totals.add(manifest)
    else:
        totals.is_whole = False


def _num_threads(check: ShardCheck) -> int:
    """By what it takes: processors, where files are looked into, or waiting for storage."""
    return min(16, os.cpu_count() or 1) if check.deep else check.store.num_threads
