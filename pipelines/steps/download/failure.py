"""How a fetch fails: a reason of a closed list, words of our own, and whether it can pass."""

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
