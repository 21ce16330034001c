"""Everything about one shard of the plan: its manifests, and with `deep` its files' insides."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.plan import Plan, PlanError, read_settled
from pipelines.prompts import PromptPlan, expand_rows, read_prompts
from pipelines.rows.ledger import TAKEDOWN_REASONS
from pipelines.run.committed import Committed
from pipelines.run.crops import images_file
from pipelines.run.images import damaged, image_places
from pipelines.run.manifest import Manifest, ShardError
from pipelines.run.record import StepSummary
from pipelines.run.schemas import Columns
from pipelines.run.store import RunStore
from pipelines.steps.kinds import STEP_KINDS
from pipelines.verify.archive import check_archive
from pipelines.verify.columns import check_same
from pipelines.verify.deep_report import DeepReport
from pipelines.verify.facts import (
    check_origin_facts,
    check_score_facts,
    check_score_rejects,
    check_settled,
    stored_rows,
)
from pipelines.verify.fault import Fault
from pipelines.verify.files import FileSizes, check_sha256, load_table, local_copy, raise_unreadable
from pipelines.verify.keys import key_digits
from pipelines.verify.ledger import check_ledger
from pipelines.verify.manifests import Held, check_flow
from pipelines.verify.records import TokenPromise
from sd_core.model.buckets import Bucket


def shard_steps() -> list[str]:
    """Steps whose shards are the plan's."""
    return [name for name, kind in STEP_KINDS.items() if not kind.is_grouped]


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What was found in one shard, and what the whole run's checks need of it."""

    shard_id: int
    manifests: Mapping[str, Manifest]
    faults: tuple[Fault, ...]
    stored_keys: tuple[str, ...] = ()
    kept_keys: tuple[str, ...] = ()
    kept_hashes: tuple[str, ...] = ()
    named_keys: tuple[str, ...] = ()
    """Of rows that are said to stand for a copy."""
    gone_keys: tuple[str, ...] = ()
    """Of rows that were taken down."""


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """Checks shards one at a time; safe to call from several threads.

    Attributes:
        steps: The completed steps, by name.
        sizes: That stored images may have; none where that is not known.
        tokens: What the ledger says that it counts.
        schemas: What the run keeps of the columns of each folder's tables.
    """

    store: RunStore
    plan: Plan | PromptPlan
    steps: Mapping[str, StepSummary]
    deep: bool
    sizes: Sequence[Bucket] = ()
    tokens: TokenPromise = field(default=TokenPromise(is_known=False))
    schemas: Mapping[str, Sequence[Columns]] = field(default_factory=dict)

    @cached_property
    def held(self) -> dict[str, Held]:
        """What there is of each step."""
        sizes = FileSizes(self.store)
        made = {name: Committed(self.store, name, s.fingerprint) for name, s in self.steps.items()}
        return {name: Held(made[name], sizes, self.deep) for name in made}

    @property
    def origin(self) -> str:
        """The step that made the run's images."""
        return "generate" if isinstance(self.plan, PromptPlan) else "download"

    def __call__(self, shard_id: int) -> ShardReport:
        """Check a shard of the plan over its first step, score and select."""
        faults: list[Fault] = []
        manifests = {}
        for step in shard_steps():
            if step in self.steps and shard_id < self.steps[step].num_shards:
                manifest = self.held[step].load(shard_id, faults)
                if manifest is not None:
                    manifests[step] = manifest
        num_rows = int(self.plan.shards["num_rows"][shard_id].as_py())
        faults += check_flow(
            manifests, num_rows=num_rows, has_score="score" in self.steps, origin=self.origin
        )
        report = DeepReport(shard_id=shard_id, manifests=manifests, faults=faults)
        if self.deep:
            try:
                self._look_inside(report)
            except KeyError:  # a table that is at fault already may lack any column
                if not report.is_damaged:
                    raise
            self._look_at_further(report)
        return ShardReport(
            shard_id=shard_id,
            manifests=manifests,
            faults=tuple(report.faults),
            stored_keys=report.stored_keys,
            kept_keys=report.kept_keys,
            kept_hashes=report.kept_hashes,
            named_keys=report.named_keys,
            gone_keys=report.gone_keys,
        )

    def _look_inside(self, report: DeepReport) -> None:
        facts = self._load(report, self.origin, f"facts/{self.origin}")
        scores = self._load(report, "score", "facts/score")
        ledger = self._load(report, "select", "ledger")
        if facts is not None:
            path = report.path(self.origin, f"facts/{self.origin}")
            report.add(self._check_facts(report, facts, path), path)
            facts = facts if {"key", "reason"} <= set(facts.column_names) else None
        stored = stored_rows(facts) if facts is not None else None
        if stored is not None:
            report.stored_keys = key_digits(stored["key"])
            report.add(self._check_images(report, stored, ledger), "images")
        if scores is not None:
            path = report.path("score", "facts/score")
            manifest = report.manifests["score"]
            recorded = self.schemas.get("facts/score", ())
            found = check_score_facts(scores, stored, manifest, where=path, recorded=recorded)
            report.add(found, path)
            rejects = self._load(report, "score", "facts/score/rejects")
            if rejects is not None:
                path = report.path("score", "facts/score/rejects")
                report.add(check_score_rejects(rejects, manifest, ledger, where=path), path)
        if ledger is not None:
            path = report.path("select", "ledger")
            report.add(self._check_ledger(report, ledger, facts, scores, path), path)
            if {"key", "kept", "sha256"} <= set(ledger.column_names):
                kept = ledger.filter(ledger["kept"])
                report.kept_keys = key_digits(kept["key"])
                report.kept_hashes = key_digits(pc.utf8_slice_codeunits(kept["sha256"], 0, 16))
            if "duplicate_of" in ledger.column_names:
                gone = pc.is_in(ledger["reason"], value_set=pa.array(TAKEDOWN_REASONS))
                report.gone_keys = key_digits(ledger.filter(gone)["key"])
                named = pc.unique(ledger["duplicate_of"].drop_null())
                report.named_keys = key_digits(pa.chunked_array([named]))

    def _look_at_further(self, report: DeepReport) -> None:
        """Files that nobody here looks into are at least what their manifests say."""
        for manifest in report.manifests.values():
            for entry in manifest.files:
                if entry.path in report.hashed:
                    continue
                with suppress(FileNotFoundError), local_copy(self.store, entry.path) as local:
                    report.add(check_sha256(local, entry), entry.path)

    def _check_facts(self, report: DeepReport, facts: pa.Table, path: str) -> Iterator[Fault]:
        if isinstance(self.plan, PromptPlan):
            yield from self._check_generated(self.plan, report, facts, path)
            return
        try:
            settled = read_settled(self.plan, self.store, report.shard_id)
        except PlanError as error:
            raise_unreadable(error)
            yield Fault("plan/settled", str(error), "the rows that the plan settled")
            settled = None
        yield from check_origin_facts(
            facts,
            report.manifests["download"],
            where=path,
            columns=self.plan.columns,
            sizes=self.sizes,
            recorded=self.schemas.get("facts/download", ()),
        )
        if settled is not None:
            yield from check_settled(facts, settled, where=path)

    def _check_generated(
        self, plan: PromptPlan, report: DeepReport, facts: pa.Table, path: str
    ) -> Iterator[Fault]:
        yield from check_origin_facts(
            facts,
            report.manifests["generate"],
            where=path,
            columns=plan.columns,
            sizes=(),
            recorded=self.schemas.get("facts/generate", ()),
        )
        try:
            prompts = read_prompts(plan, self.store, report.shard_id)
        except ShardError as error:
            raise_unreadable(error)
            yield Fault("plan/prompts", str(error), "the shard's prompts")
            return
        planned = expand_rows(prompts, shard_id=report.shard_id)
        if planned.num_rows == facts.num_rows:  # else its manifest is at fault
            is_left = pc.invert(pc.is_in(facts["reason"], value_set=pa.array(TAKEDOWN_REASONS)))
            names = ["row", "key", "prompt_key", "image_index"]
            left = facts.filter(is_left), planned.filter(is_left)
            yield from check_same(*left, names, where=path, origin="the plan")
        metadata = self._load(report, "generate", "metadata")
        if metadata is not None and "sha256" in metadata.column_names:
            where = report.path("generate", "metadata")
            made = stored_rows(facts).rename_columns(
                ["image_key" if n == "key" else n for n in facts.column_names]
            )
            same = ["image_key", "image_index", "seed", "sampler", "sha256"]
            yield from check_same(metadata, made, same, where=where, origin="the facts")

    def _check_ledger(
        self,
        report: DeepReport,
        ledger: pa.Table,
        facts: pa.Table | None,
        scores: pa.Table | None,
        path: str,
    ) -> Iterator[Fault]:
        score = report.manifests.get("score")
        if score is not None and score.quarantined is not None:
            facts = None  # its rows with an image are given another reason
        return check_ledger(
            ledger,
            facts,
            scores,
            report.manifests["select"],
            where=path,
            columns=self.plan.columns,
            origin=self.origin,
            tokens=self.tokens,
            recorded=self.schemas.get("ledger", ()),
        )

    def _check_images(
        self, report: DeepReport, stored: pa.Table, ledger: pa.Table | None
    ) -> Iterator[Fault]:
        crops = report.manifests[self.origin].file("images")
        entry = None
        with suppress(ShardError):  # reported with its size
            entry = images_file(self.store, crops)
        report.hashed.update(one.path for one in (crops, entry) if one is not None)
        if entry is None:
            return
        try:
            with local_copy(self.store, entry.path) as local:
                yield from check_sha256(local, entry)
                if entry != crops:  # a clean-up removed them
                    stored = _left_rows(local, stored, ledger)
                may_have_exif = self.origin == "generate"  # the parameters of WebP and JPEG
                yield from check_archive(local, stored, where=entry.path, exif=may_have_exif)
        except FileNotFoundError:
            return  # reported with its size

    def _load(self, report: DeepReport, step: str, folder: str) -> pa.Table | None:
        manifest = report.manifests.get(step)
        if manifest is None:
            return None
        entry = manifest.file(folder)
        report.hashed.update(() if entry is None else (entry.path,))
        before = len(report.faults)
        table = load_table(self.store, entry, report.faults)
        report.is_damaged |= len(report.faults) > before
        return table


def _left_rows(tar: Path, stored: pa.Table, ledger: pa.Table | None) -> pa.Table:
    """The rows that a tar of kept images is to hold: what is there, and all that is kept now."""
    kept = [] if ledger is None else ledger.filter(ledger["kept"])["key"].to_pylist()
    with suppress(ShardError), tar.open("rb") as stream:  # damage is reported by its digest
        kept += list(image_places(stream, fault=damaged(tar.name)))
    return stored.filter(pc.is_in(stored["key"], value_set=pa.array(kept, pa.string())))
