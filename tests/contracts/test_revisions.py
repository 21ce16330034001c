"""Revisions of a curated run: each equals what a fresh run would make, and makes nothing twice."""

import hashlib
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.clean import main as clean
from jobs.report import main as report
from jobs.takedown import main as takedown
from jobs.verify import main as verify
from pipelines.config import ConfigError
from pipelines.plan import PlanError
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from tests.contracts import cases
from tests.contracts.cases import ServedList
from tests.run_cases import committed_files

pytestmark = pytest.mark.slow
FOLDERS = ("images", "facts/download", "facts/score", "ledger", "latents")


def ledger_of(run: Path) -> pa.Table:
    lines = committed_files(run, "ledger")
    return pa.concat_tables([pq.read_table(line) for line in lines])


def current_files(run: Path, *folders: str) -> dict[str, str]:
    """sha256 of the files that readers of these folders see."""
    found = {}
    for folder in folders:
        for line in committed_files(run, folder):
            found[f"{folder}/{line.name}"] = hashlib.sha256(line.read_bytes()).hexdigest()
    return found


@contextmanager
def counted_forwards() -> Iterator[list[tuple[str, int]]]:
    """The class and batch of every module that torch runs."""
    calls: list[tuple[str, int]] = []

    def count(module: torch.nn.Module, inputs: tuple, output: object) -> None:
        sizes = [len(x) for x in inputs if isinstance(x, torch.Tensor) and x.ndim > 1]
        calls.append((type(module).__name__, sizes[0] if sizes else 0))

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.fixture
def run_copy(unharmed_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unharmed_run, tmp_path / "run"))


def aesthetic_between_kept(run: Path) -> tuple[float, list[int]]:
    """A bound that drops the worst kept row, and the shards that it lies in."""
    ledger = ledger_of(run)
    kept = ledger.filter(ledger["kept"]).sort_by("aesthetic_v1")
    first, second = kept["aesthetic_v1"].to_pylist()[:2]
    return (first + second) / 2, [kept["shard_id"][0].as_py()]


def test_a_new_threshold_encodes_only_the_shards_whose_verdicts_changed(
    served_list: ServedList, unharmed_run: Path, run_copy: Path, tmp_path: Path
) -> None:
    bound, shards = aesthetic_between_kept(unharmed_run)
    options = {"select__rules": f"[{{column: aesthetic_v1, min: {bound}}}]"}
    config = cases.configuration(served_list.path, run_copy, **options)
    before = current_files(run_copy, "latents")
    with counted_forwards() as calls:
        _, said = cases.run(config, steps=("select", "encode"))
    kept = ledger_of(run_copy)
    encoded = sum(kept.filter(kept["kept"])["shard_id"].to_pylist().count(s) for s in shards)
    assert sum(n for name, n in calls if name == "AutoencoderTiny") <= encoded
    assert not any("Vision" in name or name == "CLIP" for name, _ in calls)
    after = current_files(run_copy, "latents")
    assert len(before.items() - after.items()) == len(shards)
    num_shards = read_revision(RunStore(str(run_copy))).steps["select"].num_shards
    told = f"encode: {num_shards - 1} of {num_shards} shards are as they were"
    assert any(told in line for line in said)
    assert any("1 no longer (aesthetic_v1_below_min 1)" in line for line in said)
    fresh = cases.configuration(served_list.path, tmp_path / "fresh", **options)
    cases.run(fresh)
    assert current_files(run_copy, *FOLDERS) == current_files(tmp_path / "fresh", *FOLDERS)
    assert verify([str(run_copy), "--deep"]) == 0


def test_a_cut_that_changes_no_verdict_runs_no_model(
    served_list: ServedList, run_copy: Path
) -> None:
    options = {"select__rules": f"[{cases.SHIPPED_RULES}, {{column: sharpness, min: 0}}]"}
    config = cases.configuration(served_list.path, run_copy, **options)
    before = current_files(run_copy, "latents")
    with counted_forwards() as calls:
        cases.run(config, steps=("select", "encode"))
    assert not calls
    assert current_files(run_copy, "latents") == before
    assert verify([str(run_copy), "--deep"]) == 0


@pytest.fixture
def lists(served_list: ServedList, tmp_path: Path) -> Callable[[str, slice], None]:
    table = pq.read_table(served_list.path)
    (tmp_path / "lists").mkdir()

    def write(name: str, rows: slice) -> None:
        part = table.slice(rows.start, rows.stop - rows.start)
        pq.write_table(part, tmp_path / "lists" / name)

    return write


def test_a_grown_list_ends_as_one_that_was_whole_from_the_start(lists, tmp_path: Path) -> None:
    lists("a.parquet", slice(0, 30))
    path = f"{tmp_path}/lists/*.parquet"
    best = "{best_of: {by: aesthetic_v1, num_images: 12}}"
    rules = {"select__rules": f"[{cases.SHIPPED_RULES}, {best}]"}
    config = cases.configuration(path, tmp_path / "run", **rules)
    cases.run(config)
    first = current_files(tmp_path / "run", "images")
    lists("b.parquet", slice(20, 55))
    with pytest.raises(PlanError, match="--grow"):
        cases.run(config)
    _, said = cases.run(config, grow=True)
    assert any("the list has 35 new rows" in line for line in said)
    assert any("download: 3 of 7 shards are as they were" in line for line in said)
    assert first.items() <= current_files(tmp_path / "run", "images").items()
    cases.run(cases.configuration(path, tmp_path / "fresh", **rules))
    assert current_files(tmp_path / "run", *FOLDERS) == current_files(tmp_path / "fresh", *FOLDERS)
    assert verify([str(tmp_path / "run"), "--deep"]) == 0
    _, said = cases.run(config)
    assert any("nothing to do" in line for line in said)


def contains(run: Path, needles: set[bytes]) -> dict[bytes, list[str]]:
    """Where each of these byte strings is found: raw, or in a Parquet file's values."""
    found: dict[bytes, list[str]] = {}
    for path in sorted(run.rglob("*")):
        if not path.is_file():
            continue
        texts = [path.read_bytes()]
        if path.suffix == ".parquet":
            texts.append(repr(pq.read_table(path).to_pylist()).encode())
        for needle in needles:
            if any(needle in text for text in texts):
                found.setdefault(needle, []).append(str(path.relative_to(run)))
    return found


def test_a_takedown_leaves_no_byte_and_growing_does_not_bring_it_back(
    lists, tmp_path: Path
) -> None:
    lists("a.parquet", slice(0, 55))
    path = f"{tmp_path}/lists/*.parquet"
    run = tmp_path / "run"
    config = cases.configuration(path, run)
    cases.run(config)
    ledger = ledger_of(run)
    originals = set(ledger["duplicate_of"].drop_null().to_pylist())
    kept = ledger.filter(ledger["kept"]).to_pylist()
    first = [row for row in kept if row["key"] in originals][:2]  # what other rows copy
    gone = first + [row for row in kept if row["key"] not in originals][: 10 - len(first)]
    needles = gone_bytes(run, gone, copied=originals)
    assert set(contains(run, needles)) == needles
    (tmp_path / "keys.txt").write_text("\n".join(row["key"] for row in gone) + "\n")
    with (run / "README.md").open("a") as card:
        card.write(" ".join(row["url"] for row in gone))
    assert report([str(run)]) == 0
    assert takedown([str(run), "--keys", str(tmp_path / "keys.txt")]) == 0
    assert clean([str(run), "--grace", "0"]) == 0
    assert contains(run, needles) == {}
    assert verify([str(run), "--deep"]) == 0
    after = ledger_of(run)
    assert after.num_rows == ledger.num_rows
    assert after["reason"].to_pylist().count("taken_down") >= 10
    assert after["kept"].to_pylist().count(True) == len(kept) - 10
    _, said = cases.run(config)
    assert any("nothing to do" in line for line in said)
    lists("b.parquet", slice(0, 12))  # the same URLs
    table = pq.read_table(tmp_path / "lists/b.parquet")
    other = pa.array([f"another caption {i}" for i in range(table.num_rows)])
    pq.write_table(table.set_column(1, "TEXT", other), tmp_path / "lists/b.parquet")
    cases.run(config, grow=True)
    grown = ledger_of(run)
    urls = {row["url"] for row in gone}
    assert grown.num_rows == ledger.num_rows + 12
    assert not urls & set(grown["url"].to_pylist())
    assert contains(run, needles) == {}
    assert verify([str(run), "--deep"]) == 0


def gone_bytes(run: Path, gone: list[dict], *, copied: set[str]) -> set[bytes]:
    """Keys and URLs of rows; of those that no other row copies also the original's hash, and a
    stretch of the stored file and latents that no other file has."""
    alone = [row for row in gone if row["key"] not in copied]
    needles = {row[name].encode() for row in gone for name in ("key", "url")}
    needles |= {row["sha256"].encode() for row in alone}
    keys = {row["key"] for row in alone}
    for folder in ("images", "latents"):
        for line in committed_files(run, folder):
            with tarfile.open(line) as tar:
                contents = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
            for name, content in contents.items():
                middle = content[len(content) // 2 :][:40]
                others = [other for key, other in contents.items() if key != name]
                is_own = len(set(middle)) > 20 and not any(middle in other for other in others)
                if name.partition(".")[0] in keys and is_own:
                    needles.add(middle)
    assert len(needles) >= 2 * len(gone) + 3 * len(alone)
    return needles


def test_a_clean_up_waits_and_never_takes_what_is_referenced(
    served_list: ServedList, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_copy / "_work/images/.tmp-abc").write_bytes(b"half")
    for folder in ("_work", "_work/manifests/select"):
        (run_copy / folder / ".tmp-def").write_bytes(b"half")
    bound, _ = aesthetic_between_kept(run_copy)
    options = {"select__rules": f"[{{column: aesthetic_v1, min: {bound}}}]"}
    config = cases.configuration(served_list.path, run_copy, **options)
    cases.run(config, steps=("select", "encode"))
    files = {path for path in run_copy.rglob("*") if path.is_file()}
    assert clean([str(run_copy)]) == 0
    assert {path for path in run_copy.rglob("*") if path.is_file()} - files == {
        run_copy / "_work/unreferenced.json"
    }
    assert clean([str(run_copy), "--grace", "0", "--dry-run"]) == 0
    assert (run_copy / "_work/images/.tmp-abc").exists()
    asked: list[set[bool]] = []  # of what a store is given at once: whether it is a manifest
    delete = RunStore.delete_all

    def counted(store: RunStore, paths: Sequence[str]) -> None:
        asked.append({path.startswith("manifests/") for path in paths})
        delete(store, paths)

    monkeypatch.setattr(RunStore, "delete_all", counted)
    assert clean([str(run_copy), "--grace", "0"]) == 0
    assert asked == [{True}, {False}], "no manifest may outlive the files that it names"
    left = {path for path in run_copy.rglob("*") if path.is_file()}
    assert len(left) < len(files)
    assert not [*run_copy.rglob(".tmp-*")]
    assert verify([str(run_copy), "--deep"]) == 0


def test_a_retry_of_a_download_that_is_not_complete_is_refused(
    served_list: ServedList, tmp_path: Path
) -> None:
    config = cases.configuration(served_list.path, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--retry: the download of .* is not complete"):
        cases.run(config, retry=True)
