"""The one root of the errors that end a job with a message; any other exception is a bug.

    FoundryError                1   failed
    +-- InputError              2   what the user gave is wrong
    +-- EnvironmentFault       75   the environment: the same command goes on

Each module derives its own from these. What is wrong with what the user gave stays wrong until it
is changed; what is wrong with the environment may be gone when the same command is given again.
"""

import errno
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, ClassVar

from sd_core.redact import redact_text


class ExitCode(IntEnum):
    """What a job's exit code means; the lower one counts where two would hold."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "done, or nothing to do (a finished run again, a `--grow` without news)"
    FAILED = 1, "failed; the message says why (of `verify.py`: there are faults)"
    WRONG_INPUT = 2, "usage or configuration: a wrong key, path, list, column, model or output"
    SHARDS_GIVEN_UP = 3, "shards were given up; their rows say so (before 4)"
    NOTHING_KEPT = (
        4,
        "done, and nothing of a list that is not empty was kept or made (never of a partial "
        "`--steps`)",
    )
    ENVIRONMENT = (
        75,
        "the environment (disk, store, credentials, another job at the run, no resources in "
        "time): the same command goes on",
    )
    INTERRUPTED = 130, "stopped by SIGINT: the same command goes on"
    TERMINATED = 143, "stopped by SIGTERM: the same command goes on"


class FoundryError(Exception):
    """Something ends the job; the message says what and what to do.

    URLs in the message lose their secrets, so that whoever prints it need not think of them.

    Attributes:
        exit_code: What a job exits with that this ends.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str) -> None:
        super().__init__(redact_text(message))


class InputError(FoundryError):
    """What the user gave is wrong: a key, a path, a list, a column, a model, an output."""

    exit_code = ExitCode.WRONG_INPUT


class EnvironmentFault(FoundryError):
    """Disk, store, credentials, another job or too few resources: the same command goes on."""

    exit_code = ExitCode.ENVIRONMENT


_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.EFBIG,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.ENOLCK,
        errno.ENOKEY,
        errno.EKEYEXPIRED,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EADDRINUSE,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
# By package and class, because none of these packages must be there: clients of stores and the hub.
_UNREACHABLE = frozenset(
    {
        "aiohttp.ClientConnectionError",
        "aiohttp.ClientPayloadError",
        "botocore.ConnectionError",
        "botocore.CredentialRetrievalError",
        "botocore.HTTPClientError",
        "botocore.NoCredentialsError",
        "botocore.PartialCredentialsError",
        "httpx.TransportError",
        "httpx2.TransportError",
        "ray.LocalRayletDiedError",
        "ray.ObjectStoreFullError",
        "ray.OutOfDiskError",
        "ray.RpcError",
        "requests.ConnectionError",
        "requests.Timeout",
        "socket.gaierror",
        "urllib.URLError",
    }
)
_NO_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory"),
    "could not create a primitive",  # oneDNN's word for it, of layers that torch gave to it
)
"""Of a RuntimeError, which is how torch says that a machine's or a GPU's memory is used up."""
_NO_THREAD = "can't start new thread"
_REFUSED = (401, 403, 408, 429)
_S3_CODES = frozenset(
    {
        "400",  # to a request whose answer has no body, such as of a token that has expired
        "AccessDenied",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NoSuchBucket",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "SlowDown",
    }
)


def is_environment(error: BaseException) -> bool:
    """Whether an exception, or what it was raised from, is the environment's fault.

    A full or broken disk; too little memory; a store or hub that cannot be reached, answers 5xx or
    429, refuses the credentials, or has lost its bucket. A path that is not there, or may not be
    read on this machine, is none of it.
    """
    if isinstance(error, InputError) and has_no_bucket(error):
        return False  # it was never there
    return any(is_itself_a_fault(each) for each in causes_of(error))


def has_no_bucket(error: BaseException) -> bool:
    """Whether a store says that there is no such bucket."""
    return any(answer_of(each)[1] == "NoSuchBucket" for each in causes_of(error))


def is_no_shards_fault(error: BaseException) -> bool:
    """As `is_environment`, of an error in the midst of a job: what may not be read or written any
    more is the environment's too, as it could be when the job began."""
    return is_environment(error) or any(isinstance(e, PermissionError) for e in causes_of(error))


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was raised from, also where Ray or Ray Train wrapped it."""
    seen: set[int] = set()
    ahead: list[object] = [error]
    while ahead:
        found = ahead.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            ahead += [getattr(found, name, None) for name in ("__cause__", "cause", "_base_exc")]


def is_itself_a_fault(error: BaseException) -> bool:
    """As `is_environment`, whatever the error was raised from."""
    if isinstance(error, EnvironmentFault | MemoryError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    status, code = answer_of(error)
    if status is not None or code:
        return status in _REFUSED or (status or 0) >= 500 or code in _S3_CODES
    if is_out_of_memory(error) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error)):
        return True
    return not _names(error).isdisjoint(_UNREACHABLE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of a GPU did not suffice."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def _names(error: BaseException) -> set[str]:
    return {
        f"{each.__module__.partition('.')[0]}.{each.__qualname__}" for each in type(error).__mro__
    }


def answer_of(error: Any) -> tuple[int | None, str]:
    """The HTTP status and the own code of a store's answer; None and "" where it is no answer."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        code = str(response.get("Error", {}).get("Code", ""))
        told = response.get("ResponseMetadata", {}).get("HTTPStatusCode", code)
        return (int(told) if str(told).isdecimal() else None), code
    if "urllib.HTTPError" in _names(error):
        return int(error.code), ""
    status = getattr(response, "status_code", None)  # requests' and httpx's
    if status is None and "aiohttp.ClientResponseError" in _names(error):
        status = error.status
    return (status if isinstance(status, int) else None), ""
