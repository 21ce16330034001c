"""The kinds of failure that end a job with a message; any other exception is a bug.

What is wrong with what the user gave stays wrong until it is changed; what is wrong with the
environment may be gone when the same command is given again. `jobs/exit_codes.py` has the codes.
"""

import errno
from collections.abc import Iterator
from typing import Any


class Failure(Exception):
    """Something ends the job; the message says what and what to do."""


class InputError(Failure):
    """What the user gave is wrong: a key, a path, a list, a column, a model, an output."""


class EnvironmentFault(Failure):
    """Disk, store, credentials, another job or too few resources: the same command goes on."""


_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.ESTALE,
        errno.ENODEV,
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
        "requests.ConnectionError",
        "requests.Timeout",
        "socket.gaierror",
        "urllib.URLError",
    }
)
_REFUSED = (401, 403, 408, 429)
_S3_CODES = frozenset(
    {
        "AccessDenied",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "SlowDown",
    }
)


def is_environment(error: BaseException) -> bool:
    """Whether an exception, or what it was raised from, is the environment's fault.

    A full or broken disk; a store or hub that cannot be reached, answers 5xx or 429, or refuses
    the credentials. A path that is not there, or may not be read on this machine, is none of it.
    """
    return any(_is_fault(each) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__


def _is_fault(error: BaseException) -> bool:
    if isinstance(error, EnvironmentFault | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    status, code = _answer(error)
    if status is not None or code:
        return status in _REFUSED or (status or 0) >= 500 or code in _S3_CODES
    return not _names(error).isdisjoint(_UNREACHABLE)


def _names(error: BaseException) -> set[str]:
    return {
        f"{each.__module__.partition('.')[0]}.{each.__qualname__}" for each in type(error).__mro__
    }


def _answer(error: Any) -> tuple[int | None, str]:
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
