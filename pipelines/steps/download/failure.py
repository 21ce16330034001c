"""How a fetch fails: a reason of a closed list, words of our own, and whether it can pass."""

from typing import Literal

FetchReason = Literal[
    "url_invalid",
    "url_too_long",
    "scheme_refused",
    "address_refused",
    "dns_failed",
    "connection_failed",
    "tls_failed",
    "download_timed_out",
    "body_too_large",
    "body_truncated",
    "empty_body",
    "too_many_redirects",
    "redirect_invalid",
    "http_not_found",
    "http_gone",
    "http_forbidden",
    "http_rate_limited",
    "http_client_error",
    "http_server_error",
    "http_malformed",
    "file_missing",
    "opted_out",
    "url_blocked",
    "domain_blocked",
]


class FetchFailed(Exception):
    """A URL gave no body.

    Attributes:
        reason: One of `FetchReason`.
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
