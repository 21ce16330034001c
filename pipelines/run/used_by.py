"""Word that jobs leave in the runs that they use, so that a takedown there can list them.

`used_by/<digest>.json` of a run belongs to one job's output: a training that learns from the run's
rows, a generation whose images start from them. It is written by that job alone, without the run's
lease, and is no part of any revision: readers pass it over, verification only reads it, a clean-up
leaves it, and equal runs may differ in it.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from pipelines.run.record import NotARunError, read_revision
from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json, write_json
from sd_core.redact import redact_text, redact_url
from sd_core.say import Say

USED_BY_FOLDER = "used_by"
Job = Literal["train", "generate"]


class UsedRun(Protocol):
    """As a configuration names what a job uses."""

    @property
    def path(self) -> str: ...
    @property
    def storage_options(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Use:
    """One revision of a run, as a job used it.

    Attributes:
        revision: Its number, when the job began.
        select, encode: Fingerprints of these steps there; None where they were not complete.
        first_step, last_step: Of a training, those whose checkpoints have learnt from it; None of a
            generation.
    """

    revision: int
    select: str | None
    encode: str | None
    first_step: int | None = None
    last_step: int | None = None

    def is_same(self, other: "Use") -> bool:
        """Whether both are of the same rows."""
        return (self.select, self.encode) == (other.select, other.encode)


@dataclass(frozen=True, kw_only=True)
class UsedBy:
    """A job's word: its output, without secrets, and what it used."""

    job: Job
    output: str
    uses: tuple[Use, ...]


class UsesOfRuns:
    """Leaves a job's word in each of its runs, or says why it could not; never fails.

    Args:
        used: The runs, or the `latents` folders of runs.
        step: Of a training, the one that it begins after.
    """

    def __init__(
        self, used: Sequence[UsedRun], *, job: Job, output: str, say: Say, step: int | None = None
    ) -> None:
        self._job: Job = job
        self._output = redact_url(output)
        self._say = say
        self._uses: list[tuple[RunStore, Use]] = []
        stores = {root_of(each.path): each.storage_options for each in used}
        for root, options in stores.items():
            self._leave(root, options, step)

    def reached(self, step: int) -> None:
        """A training is about to store a checkpoint of this step."""
        uses = [(store, replace(use, last_step=step)) for store, use in self._uses]
        self._uses = [(store, use) for store, use in uses if self._write(store, use)]

    def _leave(self, root: str, options: Mapping[str, Any], step: int | None) -> None:
        try:
            store = RunStore(root, options)
            revision = read_revision(store)
            if not revision.steps:
                raise NotARunError("it lies in no run")
        except Exception as error:  # whatever a store raises, the job goes on
            self._tell(root, error)
            return
        made = {name: summary.fingerprint for name, summary in revision.steps.items()}
        use = Use(
            revision=revision.number,
            select=made.get("select"),
            encode=made.get("encode"),
            first_step=step,
            last_step=step,
        )
        if self._write(store, use):
            self._uses.append((store, use))

    def _write(self, store: RunStore, use: Use) -> bool:
        name = hashlib.sha256(f"{self._job}\n{self._output}".encode()).hexdigest()[:16]
        path = f"{USED_BY_FOLDER}/{name}.json"
        try:
            earlier = _read(store, path) if store.exists(path) else None
            uses = list(earlier.uses) if earlier is not None else []
            same = next((at for at, one in enumerate(uses) if one.is_same(use)), None)
            if same is None:
                uses.append(use)
            else:
                uses[same] = _joined(uses[same], use)
            word = UsedBy(job=self._job, output=self._output, uses=tuple(uses))
            if word != earlier:
                write_json(store, path, asdict(word))
        except Exception as error:  # as above
            self._tell(store.root, error)
            return False
        return True

    def _tell(self, root: str, error: Exception) -> None:
        self._say(
            f"{redact_url(root)}: no used_by could be left ({type(error).__name__}: "
            f"{redact_text(str(error))}): a takedown there will not list this job"
        )


def root_of(path: str) -> str:
    """The run of a `latents` folder, or the run that is named itself."""
    root = path.rstrip("/").removesuffix("/latents")
    return root if "://" in root else os.path.abspath(root)


def read_used_by(store: RunStore) -> Iterator[tuple[str, UsedBy | None]]:
    """The words that were left in a run, by path; None where one is damaged."""
    for name in store.list_files(USED_BY_FOLDER):
        path = f"{USED_BY_FOLDER}/{name}"
        yield path, _read(store, path)


def _read(store: RunStore, path: str) -> UsedBy | None:
    try:
        tree = read_json(store, path)
        word = UsedBy(**{**tree, "uses": tuple(Use(**use) for use in tree["uses"])})
        is_whole = word.job in ("train", "generate") and isinstance(word.output, str)
        return word if is_whole else None
    except (ValueError, TypeError, KeyError):
        return None


def _joined(earlier: Use, now: Use) -> Use:
    """A training that was resumed, or began again, has learnt from the steps of both."""
    steps = [earlier.first_step, now.first_step], [earlier.last_step, now.last_step]
    first, last = ([step for step in each if step is not None] for each in steps)
    return replace(
        now,
        revision=min(earlier.revision, now.revision),
        first_step=min(first, default=None),
        last_step=max(last, default=None),
    )
