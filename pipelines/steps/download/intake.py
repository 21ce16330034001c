"""From a body to a crop or a reason: hash, block list, decode. The same for every source."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.rows.image_facts import NOT_MEASURED, ImageFacts
from pipelines.steps.download.failure import FetchFailed
from pipelines.steps.download.fetch import Fetcher

if TYPE_CHECKING:
    from pipelines.steps.download.decoder_process import DecoderProcess

DOWNLOAD_FAILED = "failed_to_download"
RESIZE_FAILED = "failed_to_resize"
SUCCESS = "success"

_HASHES_BY_DIGITS = {32: "md5", 40: "sha1", 64: "sha256"}


@dataclass(frozen=True, kw_only=True)
class IncomingRow:
    """A row whose image is still to be had.

    Attributes:
        row: Its number in the shard.
        url: As the list has it, credentials and all; "" where the image comes with the source.
        content_hash: The md5, sha1 or sha256 in hex that the body must have; None for no check.
    """

    row: int
    key: str
    url: str = ""
    content_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class RowOutcome:
    """What became of a row; the fields, and those of `facts`, are columns of the facts table.

    `final_url` may still hold credentials.
    """

    status: str | None = None
    reason: str | None = None
    error_message: str | None = None
    original_width: int | None = None
    original_height: int | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    final_url: str | None = None
    facts: ImageFacts = NOT_MEASURED


OnOutcome = Callable[[int, RowOutcome], None]
"""Told what became of a row, by its number."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A row's outcome and, where it succeeded, its crop as a file's bytes."""

    outcome: RowOutcome
    image: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Takes rows in, from any number of threads.

    Args:
        is_blocked: Of a hex sha256, whether such bytes are neither decoded nor kept.
        max_bytes: Larger bodies are refused, wherever they come from.
    """

    fetcher: Fetcher = field(kw_only=False)
    decoder: "DecoderProcess" = field(kw_only=False)
    is_blocked: Callable[[str], bool]
    max_bytes: int

    def fetch(self, row: IncomingRow) -> Taken:
        """Fetch a row's URL and take what it gives."""
        try:
            with self.fetcher.fetch(row.url, key=row.key) as fetched:
                return self._take(
                    fetched.data, row=row, sha256=fetched.sha256, final_url=fetched.final_url
                )
        except FetchFailed as failure:
            return _refused(failure.reason, failure.message)

    def take(self, data: bytes, *, row: IncomingRow) -> Taken:
        """Take bytes that came with the source."""
        if not data:
            return _refused("empty_body", "the source's file is empty")
        if len(data) > self.max_bytes:
            return _refused("body_too_large", f"more than {self.max_bytes} bytes")
        sha256 = hashlib.sha256(data).hexdigest()
        return self._take(data, row=row, sha256=sha256, final_url=None)

    def _take(self, data: bytes, *, row: IncomingRow, sha256: str, final_url: str | None) -> Taken:
        facts = RowOutcome(sha256=sha256, final_url=final_url)
        if self.is_blocked(sha256):
            return _refused("sha256_blocked", "the block list has its sha256", facts=facts)
        problem = _hash_problem(data, sha256=sha256, expected=row.content_hash)
        if problem is not None:
            return _refused("content_hash_mismatch", problem, facts=facts)
        decoded = self.decoder.submit(data).result()
        return Taken(
            outcome=RowOutcome(
                status=SUCCESS if decoded.reason is None else RESIZE_FAILED,
                reason=decoded.reason,
                error_message=decoded.error_message,
                original_width=decoded.original_width,
                original_height=decoded.original_height,
                width=decoded.width,
                height=decoded.height,
                sha256=sha256,
                final_url=final_url,
                facts=decoded.facts,
            ),
            image=decoded.image if decoded.reason is None else None,
        )


def _refused(reason: str, message: str, *, facts: RowOutcome | None = None) -> Taken:
    facts = facts or RowOutcome()
    return Taken(
        outcome=RowOutcome(
            status=DOWNLOAD_FAILED,
            reason=reason,
            error_message=message,
            sha256=facts.sha256,
            final_url=facts.final_url,
        )
    )


def _hash_problem(data: bytes, *, sha256: str, expected: str | None) -> str | None:
    """What is wrong with the body's hash, or None."""
    if expected is None:
        return None
    expected = expected.strip().lower()
    kind = _HASHES_BY_DIGITS.get(len(expected))
    if kind is None:
        return "the list's hash is no md5, sha1 or sha256 in hex"
    # Not a matter of secrecy: the list's own hash says what the body has to be.
    found = (
        sha256 if kind == "sha256" else hashlib.new(kind, data, usedforsecurity=False).hexdigest()
    )
    return None if found == expected else f"the body has another {kind} than the list says"
