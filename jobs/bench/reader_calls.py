"""What people type to read a run, as its card shows it; each call gives what it found."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import duckdb
import pandas
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import webdataset

from pipelines.run.store import RunStore

_COLUMNS: Final = ["key", "kept"]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Rows that a reader gave, and the keys of the kept ones, sorted."""

    rows: int
    keys: list[str]


Call = Callable[[], Found]


def reader_calls(store: RunStore, datasets_cache: str) -> Iterator[tuple[str, Call]]:
    """Each reader of a run's ledger, images and latents, by name.

    Args:
        datasets_cache: The cache of `datasets`, which is to give no earlier revision's rows.
    """
    if store.is_local:
        yield from _on_a_disk(store.root, datasets_cache)
    else:
        yield from _on_a_store(store, datasets_cache)


def _on_a_disk(run: str, cache: str) -> Iterator[tuple[str, Call]]:
    import datasets  # type: ignore[import-untyped]

    def loaded(*place: str) -> Any:
        return datasets.load_dataset(*place, split="train", cache_dir=cache)

    yield "ledger: pandas", lambda: _of_frame(pandas.read_parquet(f"{run}/ledger"))
    yield "ledger: pyarrow", lambda: _of_arrow(pyarrow.dataset.dataset(f"{run}/ledger"))
    yield "ledger: DuckDB", lambda: _of_table(_duckdb(duckdb, f"{run}/ledger/*.parquet"))
    if polars := _polars():
        yield "ledger: Polars", lambda: _of_table(_of_polars(polars, f"{run}/ledger"))
    yield "ledger: datasets", lambda: _of_table(_rows(loaded(f"{run}/ledger")))
    for name in ("images", "latents"):
        files = [f"{run}/{path}" for path in _listed(RunStore(run), name)]
        yield f"{name}: datasets", partial(_of_samples, loaded, run, name)
        yield f"{name}: webdataset", partial(_of_webdataset, files)


def _on_a_store(store: RunStore, cache: str) -> Iterator[tuple[str, Call]]:
    import datasets

    store.filesystem.invalidate_cache()  # else it goes by what it listed of an earlier revision
    run, options = store.root, dict(store.storage_options)
    ledger = f"{run}/ledger"

    def loaded(kind: str, name: str) -> Any:
        files = [f"{run}/{path}" for path in _listed(store, name)]
        return datasets.load_dataset(
            kind, data_files=files, split="train", cache_dir=cache, storage_options=options
        )

    def arrow() -> Found:
        found = pyarrow.dataset.dataset(
            store.absolute("").rstrip("/") + "/ledger", filesystem=store.filesystem
        )
        return _of_arrow(found)

    def duck() -> Found:
        with duckdb.connect() as connection:
            connection.register_filesystem(store.filesystem)
            return _of_table(_duckdb(connection, f"{ledger}/*.parquet"))

    yield "ledger: pandas", lambda: _of_frame(pandas.read_parquet(ledger, storage_options=options))
    yield "ledger: pyarrow", arrow
    yield "ledger: DuckDB", duck
    if polars := _polars():
        told = {
            "aws_endpoint_url": options["endpoint_url"],
            "aws_access_key_id": options["key"],
            "aws_secret_access_key": options["secret"],
            "aws_allow_http": "true",
        }
        yield (
            "ledger: Polars",
            lambda: _of_table(_of_polars(polars, f"{ledger}/*.parquet", storage_options=told)),
        )
    yield "ledger: datasets", lambda: _of_table(_rows(loaded("parquet", "ledger")))
    for name in ("images", "latents"):
        yield f"{name}: datasets", partial(_of_samples, loaded, "webdataset", name)


def _listed(store: RunStore, name: str) -> list[str]:
    return store.read_bytes(f"lists/{name}.txt").decode().split()


def _polars() -> Any | None:
    try:
        import polars  # type: ignore[import-not-found]
    except ImportError:
        return None
    return polars


def _of_polars(polars: Any, place: str, **options: Mapping[str, str]) -> pa.Table:
    table: pa.Table = polars.read_parquet(place, columns=_COLUMNS, **options).to_arrow()
    return table


def _duckdb(connection: Any, pattern: str) -> pa.Table:
    table: pa.Table = connection.sql(f"SELECT key, kept FROM '{pattern}'").to_arrow_table()
    return table


def _rows(rows: Any) -> pa.Table:
    return rows.select_columns(_COLUMNS).data.table


def _of_frame(frame: Any) -> Found:
    return Found(rows=len(frame), keys=sorted(frame.loc[frame["kept"], "key"]))


def _of_arrow(found: Any) -> Found:
    return _of_table(found.to_table(columns=_COLUMNS))


def _of_table(table: pa.Table) -> Found:
    kept = table.filter(pc.field("kept"))
    return Found(rows=table.num_rows, keys=sorted(kept["key"].to_pylist()))


def _of_samples(loaded: Callable[..., Any], *place: str) -> Found:
    return _of_keys(loaded(*place)["__key__"])


def _of_webdataset(files: list[str]) -> Found:
    found = webdataset.WebDataset(files, shardshuffle=False, empty_check=False)
    return _of_keys(sample["__key__"] for sample in found)


def _of_keys(keys: Iterable[str]) -> Found:
    found = sorted(keys)
    return Found(rows=len(found), keys=found)
