"""An environment that fails is told as such: what failed, where, and what it needs, on one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sd_core.errors import (
    EnvironmentFault,
    FoundryError,
    answer_of,
    causes_of,
    is_itself_a_fault,
    is_no_shards_fault,
)
from sd_core.redact import redact_text

_NEEDS: Final = {
    errno.ENOSPC: "make room in {where}",
    errno.EDQUOT: "make room in {where}, or raise its quota",
    errno.EROFS: "mount {where} for writing",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f) for {where}",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit on open files",
    errno.ENOMEM: "free memory, or ask for fewer workers or a smaller batch",
}
_OF_WRITING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_NO_MEMORY: Final = _NEEDS[errno.ENOMEM]
_NO_THREAD: Final = "raise the limit on processes and threads (ulimit -u)"
_LOOK: Final = "see to {where}"
_PERMISSION: Final = "let this user read and write {where}"
_CREDENTIALS: Final = "give {where} credentials that are valid and may read and write it"
_REACH: Final = "see that {where} runs and can be reached"
_BUCKET: Final = "make the bucket of {where}"
_WAIT: Final = "wait until {where} has recovered"
_NOTE: Final = "in "


@contextmanager
def resource_named(where: str, *, writes: bool | None = None) -> Iterator[None]:
    """Have what fails in it tell where, unless what is inside it has told already.

    Args:
        where: A folder or URL; its secrets are not kept.
        writes: Whether it is only written (True) or only read (False) in this; None for both.
    """
    try:
        yield
    except Exception as error:
        is_other = writes is not None and writes != _is_of_writing(error)
        if not is_other and _where(error) is None and is_no_shards_fault(error):
            error.add_note(_NOTE + redact_text(where))
        raise


@contextmanager
def environment_told() -> Iterator[None]:
    """Raise what is the environment's fault as an `EnvironmentFault`.

    For what ends in another process: the causes that tell are lost where an exception is pickled.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, EnvironmentFault) or not is_no_shards_fault(error):
            raise
        raise EnvironmentFault(describe_fault(error)) from error


def describe_fault(error: BaseException) -> str:
    """The error and, where the environment is at fault, what is needed, on one line."""
    told = str(error).strip() or type(error).__name__
    if not isinstance(error, FoundryError) and type(error).__name__ not in told:
        told = f"{type(error).__name__}: {told}"
    need = next((need for each in causes_of(error) if (need := _need(each))), None)
    if need is not None:
        where = _where(error)
        need = need.format(where=where or _file_of(error) or "the disk or store")
        told = told if need in told else f"{told.rstrip('.')}; {need}"
    return " ".join(redact_text(told).split())


def _is_of_writing(error: BaseException) -> bool:
    return any(isinstance(e, OSError) and e.errno in _OF_WRITING for e in causes_of(error))


def _where(error: BaseException) -> str | None:
    for each in causes_of(error):
        for note in getattr(each, "__notes__", ()):
            if note.startswith(_NOTE):
                return str(note).removeprefix(_NOTE)
    return None


def _file_of(error: BaseException) -> str | None:
    for each in causes_of(error):
        name = each.filename2 or each.filename if isinstance(each, OSError) else None
        if isinstance(name, str) and name:
            return name
    return None


def _need(error: BaseException) -> str | None:
    """What a cause asks for; None where it is no fault of the environment's, or tells it itself."""
    if isinstance(error, PermissionError):
        return _CREDENTIALS if error.errno is None else _PERMISSION
    if isinstance(error, EnvironmentFault) or not is_itself_a_fault(error):
        return None
    status, code = answer_of(error)
    if code == "NoSuchBucket":
        return _BUCKET
    if status is not None or code:
        return _WAIT if status in (408, 429) or (status or 0) >= 500 else _CREDENTIALS
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if isinstance(error, RuntimeError):
        return _NO_THREAD if "thread" in str(error) else _NO_MEMORY
    if "Credential" in type(error).__name__:
        return _CREDENTIALS
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return _NEEDS.get(error.errno or 0, _LOOK)
    return _REACH
