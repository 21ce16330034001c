"""A tar read as a stream of bounded members: nothing is written, followed or executed.

`tarfile` reads an extended header of any claimed size into memory and keeps every member it has
seen; a list of a stranger's tars needs bounds, so the headers are walked here.
"""

import posixpath
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from pipelines.sources.config import SourceError

BLOCK = tarfile.BLOCKSIZE
MAX_EXTENDED_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A regular file in a tar.

    Attributes:
        start_byte: Where its first header block lies in the (decompressed) tar.
        end_byte: Where the next member's header lies.
        num_bytes: As claimed by the header.
        content: None where it was not wanted, or is larger than allowed.
    """

    name: str
    start_byte: int
    end_byte: int
    num_bytes: int
    content: bytes | None


def iterate_members(
    stream: IO[bytes],
    *,
    uri: str,
    at: int = 0,
    end: int | None = None,
    max_bytes: Callable[[str], int],
) -> Iterator[Member]:
    """The regular files of a tar, in order.

    Args:
        stream: Positioned at a member's header, `at` bytes into the tar.
        uri: For messages.
        end: Where to stop, at a member's header; at the tar's end where None.
        max_bytes: How much of a member of this name is read at most; 0 for none of it.

    Raises:
        SourceError: the tar is torn or is none, or another one follows it.
    """
    start, extended = at, _Extended()
    while end is None or at < end:
        block = _read_header(stream, uri, at)
        if not any(block):
            _refuse_another(stream, uri, at)
            return
        header = _parse_header(block, uri, at)
        at += BLOCK
        if extended.size is not None and header.type in _FILES:
            header.size = extended.size
        padded = -(-header.size // BLOCK) * BLOCK
        if header.type in _EXTENDED:
            _check_extended(header, uri, start)
            extended.read(header, _read(stream, padded, uri, at)[: header.size])
            at += padded
            continue
        member_name = extended.name or header.name
        wanted = max_bytes(member_name) if header.type in _FILES else 0
        content = None
        if wanted > 0 and header.size <= wanted:
            content = _read(stream, padded, uri, at)[: header.size]
        else:
            _pass_over(stream, padded, uri, at)
        at += padded
        if header.type in _FILES:
            yield Member(
                name=_plain_name(member_name),
                start_byte=start,
                end_byte=at,
                num_bytes=header.size,
                content=content,
            )
        start, extended = at, _Extended()


def _read_header(stream: IO[bytes], uri: str, at: int) -> bytes:
    block = stream.read(BLOCK)
    if len(block) != BLOCK:
        raise SourceError(f"{uri}: cut off at byte {at}: the tar has no end mark; fetch it again")
    return block


def _check_extended(header: tarfile.TarInfo, uri: str, start: int) -> None:
    if header.size > MAX_EXTENDED_HEADER_BYTES:
        raise SourceError(
            f"{uri}: the header at byte {start} claims {header.size} bytes; at most "
            f"{MAX_EXTENDED_HEADER_BYTES} are allowed"
        )


def _parse_header(block: bytes, uri: str, at: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError as error:
        raise SourceError(f"{uri}: no tar header at byte {at}: {error}; fetch it again") from error
    if header.size < 0:
        raise SourceError(f"{uri}: the header at byte {at} claims {header.size} bytes")
    if header.type not in (*_FILES, *_EXTENDED, tarfile.GNUTYPE_SPARSE):
        header.size = 0  # links, folders and devices have no content
    return header


@dataclass
class _Extended:
    """What the extended headers before a member say of it."""

    name: str | None = None
    size: int | None = None

    def read(self, header: tarfile.TarInfo, content: bytes) -> None:
        """Take in one of them."""
        if header.type == tarfile.GNUTYPE_LONGNAME:
            self.name = content.split(b"\0", 1)[0].decode("utf-8", "replace")
        if header.type != tarfile.XHDTYPE:
            return
        while content:  # each record is `<its length> <key>=<value>\n`
            length, _, _ = content.partition(b" ")
            if not length.isdigit() or not 0 < int(length[:9]) <= len(content):
                return
            record, content = content[: int(length)], content[int(length) :]
            key, _, value = record[len(length) + 1 : -1].partition(b"=")
            if key == b"path":
                self.name = value.decode("utf-8", "replace")
            elif key == b"size" and value.isdigit():
                self.size = int(value[:19])  # beyond 8 GiB the header itself has no room


def _refuse_another(stream: IO[bytes], uri: str, at: int) -> None:
    """Tars that were joined by `cat` end at the first one's end mark for most who read them."""
    while block := stream.read(BLOCK):
        at += BLOCK
        if not any(block):
            continue
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError:
            return  # rubbish behind the end mark
        raise SourceError(
            f"{uri}: another tar follows its end mark, at byte {at}; join tars by "
            "`tar --concatenate`, or give them as files of their own"
        )


def _plain_name(name: str) -> str:
    """Without the leading `./`; a name is only ever compared, never opened."""
    return posixpath.normpath(name)


def _read(stream: IO[bytes], num_bytes: int, uri: str, at: int) -> bytes:
    content = stream.read(num_bytes)
    if len(content) != num_bytes:
        raise SourceError(f"{uri}: cut off within the member at byte {at}; fetch it again")
    return content


def _pass_over(stream: IO[bytes], num_bytes: int, uri: str, at: int) -> None:
    while num_bytes > 0:
        chunk = stream.read(min(num_bytes, _CHUNK_BYTES))
        if not chunk:
            raise SourceError(f"{uri}: cut off within the member at byte {at}; fetch it again")
        num_bytes -= len(chunk)
