"""HTTP statuses that are failures: their reasons, and whether another try could help."""

import http.client
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from pipelines.stages.download.failure import FetchFailed, FetchReason

_REFUSALS: dict[int, tuple[FetchReason, str, bool]] = {
    401: ("http_forbidden", "the server asks for a login", False),
    403: ("http_forbidden", "the server forbids access", False),
    404: ("http_not_found", "the server has nothing at this URL", False),
    408: ("http_client_error", "the server gave up waiting", True),
    410: ("http_gone", "the server has it no longer", False),
    429: ("http_rate_limited", "the server asks for fewer requests", True),
    451: ("http_forbidden", "the server forbids access by law", False),
}


def status_failure(response: http.client.HTTPResponse) -> FetchFailed:
    """The failure that a status other than 2xx or 3xx stands for."""
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
        retry_after_s=_retry_after_s(response.getheader("Retry-After")) if retryable else None,
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
