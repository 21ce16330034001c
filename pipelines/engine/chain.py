"""What a chain of steps still owes, shard by shard: order, retries, quarantine."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from pipelines.engine.config import EngineConfig
from pipelines.engine.patience import Patience
from pipelines.run.manifest import Manifest, committed_shards, create_manifest
from pipelines.run.store import RunStore
from pipelines.steps.step import ShardStep
from sd_core.errors import EnvironmentFault, ExitCode, FoundryError, is_no_shards_fault
from sd_core.redact import redact_text

_MAX_QUARANTINED_IN_A_ROW = 10


class EngineError(FoundryError):
    """A job cannot go on; the message says why and what to do."""


class ResourcesError(EngineError, EnvironmentFault):
    """The machines have less than the job asks for."""


class QuarantineError(EngineError):
    """More shards were given up than the configuration allows."""

    exit_code = ExitCode.SHARDS_GIVEN_UP


@dataclass
class StepState:
    """One step's shards: `ready` to run, `running`, and `done`; the rest wait for a parent."""

    step: ShardStep
    ready: deque[int] = field(default_factory=deque)
    running: Counter[int] = field(default_factory=Counter)
    """How many attempts at each are under way; the first that ends counts."""
    done: int = 0
    tries: Counter[int] = field(default_factory=Counter)
    deaths: Counter[int] = field(default_factory=Counter)


class Chain:
    """Shards flow from each step to the next as soon as they are committed.

    Attributes:
        num_done: Of each step, by earlier jobs.

    Args:
        store: The run.
        steps: In order; each step's shard i needs shard i of the step before.
        num_shards: How many shards there are.
        config: Budgets and how far a step may run ahead of the next.
        done: Each step's committed shards, where they were listed already.
        on_commit: Told of every manifest as it is committed.
        on_trouble: Told, in one line, of every failed attempt.
    """

    def __init__(
        self,
        store: RunStore,
        steps: Sequence[ShardStep],
        num_shards: int,
        *,
        config: EngineConfig,
        on_commit: Callable[[Manifest], None],
        on_trouble: Callable[[str], None],
        done: Sequence[Collection[int]] | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._on_commit = on_commit
        self._on_trouble = on_trouble
        self.patience = Patience(config.patience_s)
        self.num_shards = num_shards
        self.states = [StepState(step) for step in steps]
        self.quarantined = 0
        self._quarantined_in_a_row = 0
        if done is None:
            done = [committed_shards(store, step.name, step.fingerprint) for step in steps]
        self.num_done = [len(found) for found in done]
        self._committed = [set(found) for found in done]
        for shard_id in range(num_shards):
            self._advance(0, shard_id)

    @property
    def is_done(self) -> bool:
        """Whether the last step has committed every shard."""
        return all(state.done == self.num_shards for state in self.states)

    def next_shard(self, index: int, *, max_ahead: int | None = None) -> int | None:
        """Take the next shard of step `index`, or None where there is nothing to start now.

        Args:
            max_ahead: How many shards may be finished and not yet taken by the step after.
        """
        state = self.states[index]
        if max_ahead is not None and self.is_held(index, max_ahead):
            return None
        for shard_id in state.ready:
            if not self.patience.wait_for((index, shard_id)):
                state.ready.remove(shard_id)
                state.running[shard_id] += 1
                return shard_id
        return None

    def is_held(self, index: int, max_ahead: int) -> bool:
        """Whether the step after has as many shards before it as step `index` may make ahead."""
        return index + 1 < len(self.states) and len(self.states[index + 1].ready) >= max_ahead

    def again(self, index: int, shard_id: int) -> None:
        """A second attempt at a shard is begun while the first is still under way."""
        assert self.states[index].running[shard_id], "it has ended"
        self.states[index].running[shard_id] += 1

    def finished(self, index: int, shard_id: int, manifest: Manifest) -> None:
        """A shard of step `index` is committed: the next step may have it. What comes of further
        attempts at it is let go."""
        state = self.states[index]
        if not state.running.pop(shard_id, 0):
            return
        state.done += 1
        self.patience.forget((index, shard_id))
        if manifest.quarantined is None:
            self._quarantined_in_a_row = 0
        else:
            self.quarantined += 1
            self._quarantined_in_a_row += 1
        self._on_commit(manifest)
        if index + 1 < len(self.states):
            self._advance(index + 1, shard_id)

    def returned(self, index: int, shard_id: int) -> None:
        """A shard was queued at a worker that went away: it is owed again, at no charge."""
        if self._is_last_attempt(index, shard_id):
            self.states[index].ready.appendleft(shard_id)

    def failed(
        self, index: int, shard_id: int, error: str, *, cause: BaseException | None = None
    ) -> None:
        """The step raised: try again, then quarantine. URLs in `error` lose their secrets.

        A `cause` that is no fault of the shard's costs it no try: all wait, and it is owed again.

        Raises:
            EnvironmentFault: it has been so for `engine.patience_s`.
        """
        if not self._is_last_attempt(index, shard_id):
            return
        error = redact_text(error)
        state = self.states[index]
        if cause is not None and is_no_shards_fault(cause):
            told = f"{state.step.name} shard {shard_id}: {error.strip()}"
            wait_s = self.patience.bear((index, shard_id), told=told, cause=cause)
            self._report(state, shard_id, f"tried again in {wait_s:.0f} s", error)
            state.ready.appendleft(shard_id)
            return
        state.tries[shard_id] += 1
        budget = self._config.shard_tries
        self._report(state, shard_id, f"try {state.tries[shard_id]} of {budget}", error)
        if state.tries[shard_id] < budget:
            state.ready.appendleft(shard_id)
        else:
            self._quarantine(index, shard_id, error)

    def interrupted(self, index: int, shard_id: int, error: str) -> None:
        """The worker died with this shard in hand: another, larger budget."""
        if not self._is_last_attempt(index, shard_id):
            return
        error = redact_text(error)
        state = self.states[index]
        state.deaths[shard_id] += 1
        budget = self._config.infrastructure_tries
        self._report(state, shard_id, f"worker lost, {state.deaths[shard_id]} of {budget}", error)
        if state.deaths[shard_id] < budget:
            state.ready.appendleft(shard_id)
        else:
            self._quarantine(index, shard_id, f"its workers died {budget} times: {error}")

    def _is_last_attempt(self, index: int, shard_id: int) -> bool:
        """An attempt has ended in vain: whether no other goes on, or has committed the shard."""
        running = self.states[index].running
        if running[shard_id] <= 1:
            return running.pop(shard_id, 0) == 1
        running[shard_id] -= 1
        return False

    def _advance(self, index: int, shard_id: int) -> None:
        while index < len(self.states) and shard_id in self._committed[index]:
            self._committed[index].discard(shard_id)
            self.states[index].done += 1
            index += 1
        if index < len(self.states):
            self.states[index].ready.append(shard_id)

    def _quarantine(self, index: int, shard_id: int, error: str) -> None:
        step = self.states[index].step
        allowed = max(_MAX_QUARANTINED_IN_A_ROW, self._config.max_quarantined_shards)
        if self._quarantined_in_a_row >= allowed:
            raise QuarantineError(
                f"{step.name}: {allowed} shards in a row were given up, and shard {shard_id} would "
                f"be the next: the fault is hardly theirs. The last error: {error.strip()}. Mend "
                "it and give the same command again; the other shards are still to be tried. When "
                "it is through, --retry makes again those that were given up"
            )
        rows = step.rows_in(shard_id)
        manifest = create_manifest(
            self._store,
            Manifest(
                step=step.name,
                fingerprint=step.fingerprint,
                shard_id=shard_id,
                files=(),
                rows_in=rows,
                kept=0,
                dropped={"shard_quarantined": rows} if rows else {},
                quarantined=error,
            ),
        )
        self._on_trouble(f"{step.name} shard {shard_id}: quarantined")
        self.states[index].running[shard_id] += 1
        self.finished(index, shard_id, manifest)

    def _report(self, state: StepState, shard_id: int, what: str, error: str) -> None:
        last_line = error.strip().splitlines()[-1] if error.strip() else "no message"
        self._on_trouble(f"{state.step.name} shard {shard_id}: {what}: {last_line}")
