"""What a format of source files is: how they are told from others, scanned and read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pipelines.sources.columns import TextColumns
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile, StoredPart, suffix_of
from pipelines.sources.rows import READER, RawRows, ScannedRange, SourceRange


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the plan asks of a file.

    Attributes:
        rows_per_shard: Of a shard at most; one of very long texts may have fewer.
        reader: Which version of the readers the plan was begun with.
        known_rows: How many rows it has already; they may be left out.
    """

    rows_per_shard: int
    reader: int = READER
    known_rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The columns that are read: URL and caption, and which others; more may be given."""

    columns: TextColumns
    others: set[str]


class SourceFormat(Protocol):
    """One entry of `FORMATS`; it holds no state.

    Attributes:
        suffixes: File names that are of this format, before `.gz` and the like.
        holds_images: Whether the images come with the files, so that nothing is fetched.
        takes_folders: Whether a file of the plan is a folder, and what is read all that is in it.
    """

    suffixes: Sequence[str] = ()
    holds_images: ClassVar[bool] = False
    takes_folders: ClassVar[bool] = False

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        """The file's rows in ranges of `asked.rows_per_shard`, for the plan.

        Raises:
            SourceError: the file is not what it should be; says what to do.
        """

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        """The rows of one range, the same as were scanned."""

    def images(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig
    ) -> Iterator[tuple[int, bytes]]:
        """`(row, image bytes as stored)` of a range's rows, where `holds_images`."""
        raise SourceError(f"{file.uri}: a {file.format} list holds no images")

    def choose(self, names: Iterable[str]) -> list[str]:
        """Which files of a source are read where the user names this format."""
        found = list(names)
        return [name for name in found if suffix_of(name) in self.suffixes] or found

    def claims(self, names: Sequence[str]) -> bool:
        """Whether a source's files together are of this format, whatever their names say."""
        return False

    def parts(self, file: SourceFile) -> Iterator[StoredPart]:
        """The stored files that one file of the plan is: a change of any is a change of it."""
        yield file
