"""The run's own records: run.json, revision.json and the plan."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from pipelines.plan import Plan, PlanError, load_plan
from pipelines.prompts import PromptPlan, is_prompt_plan, load_prompt_plan
from pipelines.rows.ledger import PLAN_REASONS
from pipelines.run.record import (
    REVISION_FILE,
    RUN_FILE,
    Revision,
    StepSummary,
    read_revision,
    read_run,
)
from pipelines.run.store import RunStore
from pipelines.run.stored_json import DamagedRecordError
from pipelines.steps.kinds import STEP_KINDS
from pipelines.steps.select.tokens import TOKENS_OPTION
from pipelines.verify.fault import Fault, shown
from pipelines.verify.files import raise_unreadable
from pipelines.verify.secrets import check_config_secrets, check_tree_secrets
from sd_core.model.buckets import Bucket, BucketsConfig
from sd_core.sealed import is_sealed, unseal


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """What could be read of the records; the faults say what could not."""

    run: Mapping[str, Any] | None
    revision: Revision | None
    plan: Plan | PromptPlan | None
    faults: tuple[Fault, ...]


def read_records(store: RunStore) -> RunRecords:
    """Read and check the records."""
    faults: list[Fault] = []
    revision = _read_revision(store, faults)
    run = _read_run(store, revision, faults)
    plan = _read_plan(store, faults)
    if run is not None:
        faults += check_config_secrets(run, where=RUN_FILE)
    if revision is not None:
        faults += check_revision(revision, run)
    if isinstance(plan, PromptPlan):
        faults += check_prompt_plan(plan, store)
    elif plan is not None:
        faults += check_plan(plan)
    return RunRecords(run=run, revision=revision, plan=plan, faults=tuple(faults))


def asked_sizes(run: Mapping[str, Any] | None) -> tuple[Bucket, ...]:
    """That stored images may have, where run.json says so."""
    image = (run or {}).get("config", {}).get("image", {})
    size, buckets = image.get("size"), image.get("buckets")
    if buckets is None:
        return (Bucket(width=size, height=size),) if isinstance(size, int) else ()
    try:
        return BucketsConfig.model_validate_json(json.dumps(buckets)).buckets()
    except ValidationError:
        return ()


@dataclass(frozen=True, kw_only=True)
class TokenPromise:
    """What the current ledger says that it counts.

    Attributes:
        is_known: False where the options on record are those of a cut that is not complete.
        max_tokens: What the text encoder reads of a caption; None: captions are not counted.
    """

    is_known: bool
    max_tokens: int | None = None


def promised_tokens(run: Mapping[str, Any] | None, select: StepSummary | None) -> TokenPromise:
    """By the options that the current ledger was made with."""
    recorded = (run or {}).get("steps", {}).get("select", {})
    if select is None or recorded.get("fingerprint") != select.fingerprint:
        return TokenPromise(is_known=False)
    most = recorded.get("options", {}).get(TOKENS_OPTION, {}).get("max_tokens")
    return TokenPromise(is_known=True, max_tokens=most if isinstance(most, int) else None)


def check_revision(revision: Revision, run: Mapping[str, Any] | None) -> Iterator[Fault]:
    """Known steps with their parents, each recorded in run.json, with counts that add up."""
    recorded = (run or {}).get("steps")
    for name, step in revision.steps.items():
        where = f"{REVISION_FILE}: {name}"
        if name not in STEP_KINDS:
            yield Fault(where, "unknown step", f"one of {', '.join(STEP_KINDS)}")
        parent = _parent(name, revision) if name in STEP_KINDS else None
        if parent is not None and parent not in revision.steps:
            yield Fault(where, f"complete without {parent}", f"{parent} complete before it")
        if isinstance(recorded, Mapping) and name not in recorded:
            yield Fault(RUN_FILE, f"no options of the completed step {name}", "its options")
        if step.rows_in != step.kept + sum(step.dropped.values()):
            yield Fault(
                where,
                f"{step.rows_in} rows in, {step.kept} kept, {sum(step.dropped.values())} dropped",
                "rows in = kept + dropped",
            )


def check_plan(plan: Plan) -> Iterator[Fault]:
    """The shards are numbered in order and hold every row; settled rows are counted."""
    where = "plan/shards.parquet"
    ids = plan.shards["shard_id"]
    if not ids.equals(pa.chunked_array([pa.array(range(plan.num_shards), pa.int32())])):
        yield Fault(where, "shard ids out of order", f"0 to {plan.num_shards - 1}")
    num_rows = sum(plan.shards["num_rows"].to_pylist())
    if num_rows != plan.num_rows:
        yield Fault(where, f"{num_rows} rows in the shards", f"{plan.num_rows} rows")
    settled = sum(plan.shards["num_settled"].to_pylist())
    if settled != sum(plan.settled.values()):
        yield Fault(where, f"{settled} settled rows", f"{sum(plan.settled.values())}")
    for reason in plan.settled.keys() - set(PLAN_REASONS):
        yield Fault("plan/plan.json", f"settled as {shown(reason)}", "a reason of the closed list")


def _read_run(
    store: RunStore, revision: Revision | None, faults: list[Fault]
) -> Mapping[str, Any] | None:
    expected = "the job's options as JSON"
    try:
        tree = read_run(store)
    except DamagedRecordError as error:
        faults.append(Fault(RUN_FILE, error.found, expected))
        return None
    if not tree:  # it is written after the plan: a job that was stopped before has no step yet
        if revision is None or revision.steps:
            faults.append(Fault(RUN_FILE, "missing", expected))
    elif "steps" not in tree:
        faults.append(Fault(RUN_FILE, "no mapping with `steps`", expected))
    return tree if "steps" in tree else None


def _read_revision(store: RunStore, faults: list[Fault]) -> Revision | None:
    expected = "the completed steps as JSON"
    try:
        if not store.exists(REVISION_FILE) and is_sealed(store.read_bytes(RUN_FILE)):
            faults.append(Fault(REVISION_FILE, "missing", expected))
        return read_revision(store)
    except FileNotFoundError:
        return Revision()  # and no run.json, which is said
    except DamagedRecordError as error:
        faults.append(Fault(REVISION_FILE, error.found, expected))
        return None


def _parent(step: str, revision: Revision) -> str | None:
    """What must be complete for a step to be: select does without score where nothing is scored."""
    origin = "generate" if "generate" in revision.steps else "download"
    return {"score": origin, "select": origin, "encode": "select"}.get(step)


def check_prompt_plan(plan: PromptPlan, store: RunStore) -> Iterator[Fault]:
    """The shards are numbered in order, hold every row, and are as they were planned."""
    ids = plan.shards["shard_id"].to_pylist()
    if ids != list(range(plan.num_shards)):
        yield Fault(plan.shards_path, "shard ids out of order", f"0 to {plan.num_shards - 1}")
    for name, total in (("num_rows", plan.num_rows), ("num_prompts", plan.num_prompts)):
        found = sum(plan.shards[name].to_pylist())
        if found != total:
            yield Fault(plan.shards_path, f"{name} of all shards {found}", f"{total}")
    for path, digest in zip(
        plan.shards["path"].to_pylist(), plan.shards["sha256"].to_pylist(), strict=True
    ):
        try:
            if hashlib.sha256(store.read_bytes(path)).hexdigest() != digest:
                yield Fault(path, "changed", "the prompts that were planned")
        except FileNotFoundError:
            yield Fault(path, "missing", "the prompts that were planned")


def _read_plan(store: RunStore, faults: list[Fault]) -> Plan | PromptPlan | None:
    plan: Plan | PromptPlan
    try:
        plan = load_prompt_plan(store) if is_prompt_plan(store) else load_plan(store)
        faults += check_tree_secrets(
            unseal(store.read_bytes("plan/plan.json")), where="plan/plan.json"
        )
    except PlanError as error:
        raise_unreadable(error)
        faults.append(Fault("plan", str(error).replace("\n", " "), "plan.json and shards.parquet"))
        return None
    return plan
