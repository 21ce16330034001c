"""What goes over the pipes between a DecoderProcess and its child."""

import io
import json
import os
import struct
from dataclasses import asdict, dataclass
from typing import BinaryIO

from pipelines.rows.image_facts import NOT_MEASURED, ImageFacts
from pipelines.steps.download.image_rejected import ImageReason

EXIT_OUT_OF_MEMORY = 12
"""The child's exit status when an image needed more memory than it may take."""

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """What became of one original.

    `image` holds the encoded square, or None and then `reason` and `error_message` say why; sizes
    are in pixels, the original's as a viewer shows it, None where unknown.
    """

    image: bytes | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    original_format: str | None = None
    facts: ImageFacts = NOT_MEASURED
    reason: ImageReason | None = None
    error_message: str | None = None


@dataclass(frozen=True, kw_only=True)
class DecoderAnswer:
    """A result as it goes over the pipe; `retires` when a fresh process decodes the next one."""

    result: DecodeResult
    retires: bool = False


def frame_reader(pipe: io.RawIOBase) -> BinaryIO:
    """A pipe's end from which a frame is read into one block of memory, and nothing beyond it: so
    that one can wait for the next by the descriptor."""
    return io.BufferedReader(pipe, buffer_size=1)


def write_frame(pipe: BinaryIO, data: bytes) -> None:
    """Writes the length, then the bytes, to an unbuffered pipe."""
    for part in (_LENGTH.pack(len(data)), data):
        rest = memoryview(part)
        while rest:
            rest = rest[pipe.write(rest) :]


def read_frame(pipe: BinaryIO) -> bytes | None:
    """The next frame's bytes, or None when the other end is gone, even in the middle of one."""
    head = _read_exactly(pipe, _LENGTH.size)
    if head is None:
        return None
    return _read_exactly(pipe, _LENGTH.unpack(head)[0])


def write_hello(pipe: BinaryIO) -> None:
    """Says that this process is ready to decode, and its process id."""
    write_frame(pipe, str(os.getpid()).encode("ascii"))


def read_hello(pipe: BinaryIO) -> int | None:
    """The process id of the next decoding process, or None when there is none."""
    frame = read_frame(pipe)
    return None if frame is None else int(frame)


def write_answer(pipe: BinaryIO, answer: DecoderAnswer) -> None:
    """Sends an answer: a frame of JSON, then a frame of the image (empty when there is none)."""
    fields = {name: value for name, value in vars(answer.result).items() if name != "image"}
    fields["facts"] = asdict(answer.result.facts)
    fields["retires"] = answer.retires
    write_frame(pipe, json.dumps(fields).encode("ascii"))
    write_frame(pipe, answer.result.image or b"")


def read_answer(pipe: BinaryIO) -> DecoderAnswer | None:
    """The next answer, or None when the child is gone."""
    frame, image = read_frame(pipe), read_frame(pipe)
    if frame is None or image is None:
        return None
    fields = json.loads(frame)
    retires = fields.pop("retires")
    fields["facts"] = ImageFacts(**fields["facts"])
    return DecoderAnswer(result=DecodeResult(image=image or None, **fields), retires=retires)


def _read_exactly(pipe: BinaryIO, length: int) -> bytes | None:
    data = pipe.read(length)
    return data if len(data) == length else None
