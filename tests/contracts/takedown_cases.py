"""What must be gone after a takedown, searched for in every file of a run."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq


def contents(run: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a run, and besides what is in it once it is decompressed or unpacked."""
    for path in sorted(run.rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(run).as_posix()
        yield name, path.read_bytes()
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            yield f"{name} (schema)", str(file.schema_arrow.metadata).encode()
            for column, array in zip(file.schema_arrow.names, file.read().columns, strict=True):
                for chunk in array.chunks:
                    for buffer in chunk.buffers():
                        if buffer is not None:
                            yield f"{name} {column}", buffer.to_pybytes()
                yield f"{name} {column} (dictionaries)", _statistics(file)
        if path.suffix == ".tar":
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member)
                    assert stream is not None
                    yield f"{name} {member.name}", stream.read()


def _statistics(file: pq.ParquetFile) -> bytes:
    """The least and greatest values that a Parquet file has of its columns."""
    found = io.StringIO()
    for group in range(file.metadata.num_row_groups):
        for column in range(file.metadata.num_columns):
            statistics = file.metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max:
                found.write(f"{statistics.min} {statistics.max}\n")
    return found.getvalue().encode()


def left_in(run: Path, wanted: Mapping[str, bytes]) -> list[str]:
    return [
        f"{what} in {name}"
        for name, content in contents(run)
        for what, text in wanted.items()
        if text in content or text in name.encode()
    ]


def write_entries(path: Path, entries: Iterable[str]) -> str:
    path.write_text("\n".join(sorted(entries)) + "\n")
    return str(path)
