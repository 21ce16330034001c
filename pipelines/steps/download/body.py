"""The body of an answer, whole, decoded and within bounds, or a named failure."""

import io
from dataclasses import dataclass

from pipelines.steps.download.answer import Answer
from pipelines.steps.download.content_coding import CodedBroken, CodedCutOff, CodedTooLarge, decode
from pipelines.steps.download.failure import FetchFailed, MalformedAnswer
from pipelines.steps.download.header import read_header
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.limits import ByteBudget, Deadline

_SMALL_BODY_BYTES = 256 * 1024
"""A body up to this size is not counted against the budget of bytes in flight."""
_SMALL_DECODED_BYTES = 1024 * 1024
"""Nor is what a small body decodes to, up to this size."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """Bytes, and how much of the budget they hold."""

    content: bytes
    reserved: int


class BodyReader:
    """Reads bodies for all threads of a process.

    Args:
        max_bytes: Largest body, on the wire and decoded alike.
        budget: What large bodies take their room from.
    """

    def __init__(self, *, max_bytes: int, budget: ByteBudget) -> None:
        self._max_bytes = max_bytes
        self._budget = budget

    def read(self, answer: Answer, *, deadline: Deadline) -> Body:
        """Read an answer's body to its end.

        Raises:
            FetchFailed: `body_too_large`, `body_truncated`, `empty_body` or `http_malformed`.
            OSError, http.client.HTTPException: as the socket and http.client raise them.
        """
        room = _Room(self._budget, deadline)
        try:
            content = self._received(answer, room)
            if answer.lengths and len(content) not in answer.lengths:
                raise MalformedAnswer("the answer tells several lengths and has none of them")
            if content and answer.codings:
                content = self._decoded(content, answer, room)
            if not content:
                raise FetchFailed("empty_body", "the answer has no body")
        except CodedTooLarge:
            room.shrink(0)
            raise self._too_large() from None
        except BaseException:
            room.shrink(0)
            raise
        room.shrink(len(content))
        return Body(content=content, reserved=room.held)

    def _received(self, answer: Answer, room: "_Room") -> bytes:
        # What it decodes to is reserved with it: two half-read bodies must not wait for each other.
        extra = self._max_bytes if answer.codings else 0
        length = answer.length
        if length is not None:
            if length > self._max_bytes:
                raise self._too_large()
            if length > _SMALL_BODY_BYTES:
                room.take(length + extra)
            content = answer.read(length)
            if len(content) < length:
                raise truncated()
            return content
        stream = io.BytesIO()
        _read_up_to(answer, _SMALL_BODY_BYTES, into=stream)
        if stream.tell() > _SMALL_BODY_BYTES:
            room.take(self._max_bytes + extra)
            _read_up_to(answer, self._max_bytes, into=stream)
        if stream.tell() > self._max_bytes:
            raise self._too_large()
        return stream.getvalue()

    def _decoded(self, content: bytes, answer: Answer, room: "_Room") -> bytes:
        if not room.held:
            try:
                limit = min(_SMALL_DECODED_BYTES, self._max_bytes)
                return _decode(content, answer, limit=limit)
            except CodedTooLarge:
                room.take(self._max_bytes)
        return _decode(content, answer, limit=self._max_bytes)

    def _too_large(self) -> FetchFailed:
        return FetchFailed("body_too_large", f"more than {self._max_bytes} bytes")


class _Room:
    """What one body holds of the budget."""

    def __init__(self, budget: ByteBudget, deadline: Deadline) -> None:
        self._budget = budget
        self._deadline = deadline
        self.held = 0

    def take(self, size: int) -> None:
        """Wait for that many bytes; once for a body."""
        self.held = self._budget.reserve(size, deadline=self._deadline)

    def shrink(self, size: int) -> None:
        """Give back what is over `size`."""
        surplus = max(self.held - size, 0)
        self.held -= surplus
        self._budget.release(surplus)


def truncated() -> FetchFailed:
    """The failure of a body that ends too early."""
    return FetchFailed("body_truncated", "the body ends before its end", retryable=True)


def _decode(content: bytes, answer: Answer, *, limit: int) -> bytes:
    try:
        return decode(content, answer.codings, limit=limit, is_plain=_is_image)
    except CodedCutOff:
        raise truncated() from None
    except CodedBroken:
        raise MalformedAnswer("the body breaks off its Content-Encoding") from None


def _is_image(content: bytes) -> bool:
    try:
        read_header(content)
    except ImageRejected:
        return False
    return True


def _read_up_to(answer: Answer, limit: int, *, into: io.BytesIO) -> None:
    """Read on to the end, or until `into` holds more than `limit` bytes.

    `read` would trust the sizes of chunks; `readinto` never gives more than asked for.
    """
    buffer = memoryview(bytearray(64 * 1024))
    while into.tell() <= limit and (count := answer.readinto(buffer)):
        into.write(buffer[:count])
