"""Tars, read as a stream of bounded members and written as samples.

What is read is never written to a disk, followed or executed. `tarfile` reads an extended header
of any claimed size into memory, keeps every member it has seen, and takes a tar that is cut off
between two members for a whole one; so the headers are walked here.
"""

import io
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

BLOCK = tarfile.BLOCKSIZE
MAX_EXTENDED_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


TarFault = Callable[[str], Exception]
"""The error to raise, from what is wrong with the tar."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """What lies in a tar under a name.

    Attributes:
        header: As it stands before the content, with the name and size of extended headers.
        is_file: False of a link, a folder, a device.
        start_byte: Where its first header block lies in the (decompressed) tar.
        data_byte: Where its content begins.
        end_byte: Where the next member's header lies.
        content: None where it was not wanted, or is larger than allowed.
    """

    header: tarfile.TarInfo
    is_file: bool
    start_byte: int
    data_byte: int
    end_byte: int
    content: bytes | None

    @property
    def name(self) -> str:
        """The whole name, with folders."""
        return self.header.name

    @property
    def num_bytes(self) -> int:
        """The content's size, as claimed by the header."""
        return self.header.size

    @property
    def key(self) -> str:
        """The name up to its first dot: what the members of a sample share."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The consecutive members of a tar that share a key; extension to content."""

    key: str
    files: Mapping[str, bytes]
    end_byte: int


def iterate_members(
    stream: IO[bytes],
    *,
    fault: TarFault,
    at: int = 0,
    end: int | None = None,
    max_bytes: Callable[[str], int] = lambda name: sys.maxsize,
    seek: bool = False,
) -> Iterator[Member]:
    """The members of a tar, in order.

    Args:
        stream: Positioned at a member's header, `at` bytes into the tar.
        fault: Makes the error of a tar that is torn or none, or that another one follows.
        end: Where to stop, at a member's header; at the tar's end where None.
        max_bytes: How much of a member of this name is read at most; 0 for none, by default all.
        seek: Jump over what is not wanted, in a stream that allows it, instead of reading it.
    """
    tar = _Stream(stream, fault, at, seek)
    start, extended = at, _Extended()
    while end is None or tar.at < end:
        block = tar.read_header()
        if not any(block):
            tar.refuse_another()
            return
        header = tar.parse_header(block, start)
        is_file = header.type in _FILES
        if extended.size is not None and is_file:
            header.size = extended.size
        if header.type in _EXTENDED:
            extended.read(header, tar.read(header.size))
            continue
        header.name = extended.name or header.name
        data_byte, content = tar.at, None
        if is_file and max(header.size, 1) <= max_bytes(header.name):
            content = tar.read(header.size)
        else:
            tar.pass_over(header.size)
        yield Member(
            header=header,
            is_file=is_file,
            start_byte=start,
            data_byte=data_byte,
            end_byte=tar.at,
            content=content,
        )
        start, extended = tar.at, _Extended()


def iterate_tar_samples(stream: IO[bytes], *, fault: TarFault) -> Iterator[TarSample]:
    """The samples of a tar that we wrote, in order; memory is that of one sample.

    Args:
        stream: At the tar's start.
        fault: As for `iterate_members`; also for what is no sample's file.
    """
    key, files, end_byte = "", dict[str, bytes](), 0
    for member in iterate_members(stream, fault=fault):
        stem, dot, extension = member.name.partition(".")
        if member.content is None or not dot or "/" in member.name:
            raise fault(f"member {member.name!r} is not a sample's file")
        if files and (stem != key or extension in files):
            yield TarSample(key=key, files=files, end_byte=end_byte)
            files = {}
        key, end_byte = stem, member.end_byte
        files[extension] = member.content
    if files:
        yield TarSample(key=key, files=files, end_byte=end_byte)


@dataclass
class _Stream:
    """A tar's blocks, and how far they are read."""

    stream: IO[bytes]
    fault: TarFault
    at: int
    seek: bool

    def read_header(self) -> bytes:
        block = self.stream.read(BLOCK)
        if len(block) != BLOCK:
            raise self.fault(
                f"cut off at byte {self.at}: the tar has no end mark; fetch or copy it again"
            )
        return block

    def parse_header(self, block: bytes, start: int) -> tarfile.TarInfo:
        """The header of the member that begins at `start`, which it may be an extension of."""
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError as error:
            raise self.fault(
                f"no tar header at byte {self.at}: {error}; fetch or copy it again"
            ) from error
        limit = MAX_EXTENDED_HEADER_BYTES if header.type in _EXTENDED else sys.maxsize
        if not 0 <= header.size <= limit:
            raise self.fault(
                f"the header at byte {start} claims {header.size} bytes; at most "
                f"{MAX_EXTENDED_HEADER_BYTES} are allowed"
            )
        if header.type not in (*_FILES, *_EXTENDED, tarfile.GNUTYPE_SPARSE):
            header.size = 0  # links, folders and devices have no content
        self.at += BLOCK
        return header

    def read(self, num_bytes: int) -> bytes:
        padded = _padded(num_bytes)
        content = self.stream.read(padded)
        if len(content) != padded:
            raise self._cut_off()
        self.at += padded
        return content[:num_bytes]

    def pass_over(self, num_bytes: int) -> None:
        left = padded = _padded(num_bytes)
        if self.seek:
            self.stream.seek(padded, os.SEEK_CUR)
            left = 0
        while left > 0:
            chunk = self.stream.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise self._cut_off()
            left -= len(chunk)
        self.at += padded

    def _cut_off(self) -> Exception:
        return self.fault(f"cut off within the member at byte {self.at}; fetch or copy it again")

    def refuse_another(self) -> None:
        """Tars that were joined by `cat` end at the first one's end mark for most who read them."""
        at = self.at
        while block := self.stream.read(BLOCK):
            at += BLOCK
            if not any(block):
                continue
            try:
                tarfile.TarInfo.frombuf(block, "utf-8", "replace")
            except tarfile.HeaderError:
                return  # rubbish behind the end mark
            raise self.fault(
                f"another tar follows its end mark, at byte {at}; join tars by "
                "`tar --concatenate`, or give them as files of their own"
            )


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK) * BLOCK


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


class SampleTarWriter:
    """Writes samples as members `{key}.{extension}`, as img2dataset and webdataset lay them out.

    The headers hold no time, user or mode of this machine, so the same samples give the same
    bytes. (Importing webdataset brings torch into every fetching process.)

    Args:
        path: The new tar.
        extended: With webdataset's own owner and extended headers, which take names of any length;
            else a name has at most 100 bytes.
    """

    def __init__(self, path: Path, *, extended: bool = False) -> None:
        form = tarfile.PAX_FORMAT if extended else tarfile.USTAR_FORMAT
        self._tar = tarfile.open(path, "w", format=form)  # noqa: SIM115
        self._extended = extended

    def write(self, key: str, files: Mapping[str, bytes]) -> None:
        """Append a sample's files in their order.

        Raises:
            ValueError: a name is too long; nothing is written.
        """
        for name in (f"{key}.{extension}" for extension in files):
            if not self._extended and len(name.encode()) > tarfile.LENGTH_NAME:
                raise ValueError(f"{name}: the name is too long for a tar")
        for extension, content in files.items():
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size, header.mode = len(content), 0o444
            if self._extended:
                header.uname = header.gname = "bigdata"
                header.mtime = 0.0  # no integer, which is what makes tarfile extend the header
            self._add(header, content)

    def copy(self, member: Member) -> None:
        """Append a member that was read from another tar with its content."""
        self._add(member.header, member.content or b"")

    def _add(self, header: tarfile.TarInfo, content: bytes) -> None:
        self._tar.addfile(header, io.BytesIO(content))
        self._tar.members.clear()  # type: ignore[attr-defined]  # or it remembers them all

    def close(self) -> None:
        """Write the end mark and close the file."""
        self._tar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
