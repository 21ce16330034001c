"""Whether a folder is a run, or may become one."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.run.layout import WORK_FOLDER
from pipelines.run.record import REVISION_FILE, RUN_FILE, NotARunError, read_run
from pipelines.run.store import RunStore, StorageError
from sd_core.errors import EnvironmentFault, FoundryError, is_environment
from sd_core.faults import describe_fault

PLAN_FILE = "plan/plan.json"
_BEFORE_THE_PLAN = ("lease.json", "status.json", "plan", WORK_FOLDER, "lost+found")
"""What may lie in an output before it has its records: a killed job's, and the disk's own."""


def require_run(store: RunStore) -> None:
    """Raise `NotARunError` where a folder holds none of a run's records."""
    with _named(store, "run"):
        _check_is_no_file(store, "run")
        if not is_run(store):
            raise NotARunError(
                f"{store.root}: not a run: no run.json, revision.json or plan in it; give the "
                "`output` of a job"
            )


def is_run(store: RunStore) -> bool:
    """Whether a folder holds any of a run's records."""
    return any(store.exists(path) for path in (RUN_FILE, REVISION_FILE, PLAN_FILE))


def check_output(store: RunStore, *, job: str) -> None:
    """Refuse an output that is a file, another job's run, or a folder of other things.

    Args:
        store: The output.
        job: `curate`, `generate` or `train`, as run.json has it.

    Raises:
        StorageError: it is a file, or may not be looked at.
        NotARunError: it holds something else; says what.
        EnvironmentFault: its store cannot be reached.
    """
    with _named(store, "output"):
        _check_output(store, job)


def _check_output(store: RunStore, job: str) -> None:
    _check_is_no_file(store, "output")
    found = read_run(store).get("job", job)
    if found != job:
        raise NotARunError(
            f"output {store.root}: holds a run of another job ({found}); give another output"
        )
    if is_run(store):
        return
    names = [*store.list_folders(""), *store.list_files("")]
    others = [name for name in names if not _may_be_there(name)]
    if others:
        raise NotARunError(
            f"output {store.root}: not empty and not a run: it holds {', '.join(others[:3])}"
            f"{', ...' if len(others) > 3 else ''}; give a new or an empty folder, or a run to go "
            "on with"
        )


def _may_be_there(name: str) -> bool:
    return name.startswith((".", "probe-")) or name in _BEFORE_THE_PLAN


@contextmanager
def _named(store: RunStore, what: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        kind = EnvironmentFault if is_environment(error) else StorageError
        raise kind(f"{what} {store.root}: cannot be looked at: {describe_fault(error)}") from error
    except Exception as error:  # the client of each store raises its own
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise StorageError(f"{what} {store.root}: {error.strerror}") from error
        if type(error).__name__ == "ParamValidationError":  # botocore's
            raise StorageError(f"{what} {store.root}: not the name of a bucket") from error
        if isinstance(error, FoundryError) or not is_environment(error):
            raise
        raise EnvironmentFault(f"{what} {store.root}: {describe_fault(error)}") from error


def _check_is_no_file(store: RunStore, what: str) -> None:
    if not store.is_local:
        return
    path = Path(store.absolute("")).resolve()
    for each in (path, *path.parents):
        if each.exists() and not each.is_dir():
            raise StorageError(f"{what} {store.root}: {each} is a file; give a folder")
