"""How a fetch fails: a reason of a closed list, our own words, whether it can pass; by statuses."""

import http.client
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from pipelines.rows.ledger import FailedFetch

FetchReason = Literal[FailedFetch, "url_blocked", "domain_blocked"]  # of a redirect


class FetchFailed(Exception):
    """A URL gave no body.

    Attributes:
        message: Our own words, and at most a status number: never a byte of the server's.
        retryable: Whether a later try could end otherwise.
        retry_after_s: The wait the server asked for, or None.
    """

    def __init__(
        self,
        reason: FetchReason,
        message: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class MalformedAnswer(FetchFailed):
    """What came is not HTTP: `http_malformed`, but worth asking once more on a new connection."""

    def __init__(self, message: str) -> None:
        super().__init__("http_malformed", message)


_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_NEVER_FOLLOWED = (304, 305)
_REFUSALS: dict[int, tuple[FetchReason, str, bool]] = {
    300: ("http_not_found", "the server offers a choice of others instead", False),
    304: ("http_malformed", "'not modified', though asked without a condition", False),
    305: ("http_malformed", "the server asks for a proxy, which HTTP no longer allows", False),
    401: ("http_forbidden", "the server asks for a login", False),
    403: ("http_forbidden", "the server forbids access", False),
    404: ("http_not_found", "the server has nothing at this URL", False),
    408: ("http_client_error", "the server gave up waiting", True),
    410: ("http_gone", "the server has it no longer", False),
    429: ("http_rate_limited", "the server asks for fewer requests", True),
    451: ("http_forbidden", "the server forbids access by law", False),
}


def is_redirect(status: int, location: str | None) -> bool:
    """Whether a status sends us elsewhere, even where the Location that should say so is missing.

    A 300 without one leaves the choice to a person; a 304 and a 305 never send anybody on.
    """
    if status == 300:
        return bool(location and location.strip())
    return 300 < status < 400 and status not in _NEVER_FOLLOWED


def is_part(status: int, content_range: str | None) -> bool:
    """Whether a 206, which nobody asked for, says that it brings less than the whole."""
    if status != 206 or not content_range:
        return False
    found = _RANGE.fullmatch(content_range.strip())
    if found is None:
        return False
    first, last, total = found.groups()
    return int(first) > 0 or (total != "*" and int(last) + 1 < int(total))


def status_failure(response: http.client.HTTPResponse) -> FetchFailed:
    """The failure that a status stands for which is neither 2xx nor a redirect."""
    status = response.status
    if status in _REFUSALS:
        reason, words, retryable = _REFUSALS[status]
    elif 400 <= status < 500:
        reason, words, retryable = "http_client_error", "the server refuses the request", False
    elif 500 <= status < 600:
        reason, words, retryable = "http_server_error", "the server failed", True
    else:
        reason, words, retryable = "http_malformed", "a status that HTTP does not know", False
    return FetchFailed(
        reason,
        f"{words} (status {status})",
        retryable=retryable,
        retry_after_s=_retry_after_s(response.headers.get("Retry-After")) if retryable else None,
    )


def _retry_after_s(value: str | None) -> float | None:
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
