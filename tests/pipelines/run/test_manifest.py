"""The commit: files named by their hash, the manifest last, the first one wins."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.run.committed import Committed
from pipelines.run.manifest import (
    Manifest,
    ShardError,
    SpooledFile,
    commit_shard,
    committed_shards,
    create_manifest,
    manifest_path,
    read_manifest,
    sha256_of,
)
from pipelines.run.store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def commit(
    store: RunStore, tmp_path: Path, *, content: bytes = b"rows", shard_id: int = 3
) -> Manifest:
    path = tmp_path / f"spooled-{hashlib.sha256(content).hexdigest()[:8]}.tar"
    path.write_bytes(content)
    return commit_shard(
        store,
        step="download",
        fingerprint="f0",
        shard_id=shard_id,
        files=[SpooledFile(folder="facts/download", path=path, num_rows=5)],
        rows_in=5,
        kept=3,
        dropped={"http_gone": 2, "http_forbidden": 0},
    )


def test_commit_names_files_by_their_hash_and_can_be_read_back(
    store: RunStore, tmp_path: Path
) -> None:
    manifest = commit(store, tmp_path)
    digest = hashlib.sha256(b"rows").hexdigest()
    [entry] = manifest.files
    assert entry.path == f"facts/download/000003-{digest[:16]}.tar"
    assert (entry.sha256, entry.num_bytes, entry.num_rows) == (digest, 4, 5)
    assert manifest.dropped == {"http_gone": 2}
    assert store.read_bytes(entry.path) == b"rows"
    assert read_manifest(store, "download", "f0", 3) == manifest
    assert manifest.file("facts/download") == entry
    assert manifest.file("facts") is None


def test_same_rows_give_the_same_manifest_bytes(store: RunStore, tmp_path: Path) -> None:
    commit(store, tmp_path)
    other = RunStore(str(tmp_path / "other"))
    commit(other, tmp_path)
    path = manifest_path("download", "f0", 3)
    assert store.read_bytes(path) == other.read_bytes(path)


def test_first_creator_wins_and_the_second_is_told_so(store: RunStore, tmp_path: Path) -> None:
    first = commit(store, tmp_path, content=b"first")
    second = commit(store, tmp_path, content=b"second")
    assert second == first
    assert read_manifest(store, "download", "f0", 3) == first
    unreferenced = hashlib.sha256(b"second").hexdigest()[:16]
    assert store.list_files("facts/download") == sorted(
        [Path(first.files[0].path).name, f"000003-{unreferenced}.tar"]
    )


def test_all_racing_writers_agree_on_one_manifest(store: RunStore, tmp_path: Path) -> None:
    def attempt(number: int) -> Manifest:
        return commit(store, tmp_path, content=str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        manifests = list(pool.map(attempt, range(8)))
    assert len({manifest.files[0].sha256 for manifest in manifests}) == 1


def test_manifest_is_not_there_before_its_files(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: RunStore, local: Path, path: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunStore, "put_file", fail)
    with pytest.raises(OSError, match="No space left"):
        commit(store, tmp_path)
    assert committed_shards(store, "download", "f0") == set()


def test_counts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ShardError, match="score shard 1: 5 rows in, but 3 kept and 1 dropped"):
        Manifest(
            step="score",
            fingerprint="f0",
            shard_id=1,
            files=(),
            rows_in=5,
            kept=3,
            dropped={"shard_quarantined": 1},
        )


@pytest.mark.parametrize("content", [b"", b'{"step":', b"[]", b"null", b"{}", b"\xff\xfe"])
def test_torn_manifest_is_an_error_that_names_its_path(store: RunStore, content: bytes) -> None:
    path = manifest_path("download", "f0", 3)
    store.replace(path, content)
    with pytest.raises(ShardError, match=rf"{path}: not a manifest"):
        read_manifest(store, "download", "f0", 3)


def test_manifest_with_an_unknown_field_is_an_error(store: RunStore, tmp_path: Path) -> None:
    commit(store, tmp_path)
    path = manifest_path("download", "f0", 3)
    tree = json.loads(store.read_bytes(path)) | {"color": "red"}
    store.replace(path, json.dumps(tree).encode())
    with pytest.raises(ShardError, match="color"):
        read_manifest(store, "download", "f0", 3)


def test_manifest_of_another_shard_is_an_error(store: RunStore, tmp_path: Path) -> None:
    commit(store, tmp_path)
    content = store.read_bytes(manifest_path("download", "f0", 3))
    store.replace(manifest_path("download", "f0", 4), content)
    with pytest.raises(ShardError, match=r"is the manifest of \('download', 'f0', 3\)"):
        read_manifest(store, "download", "f0", 4)


def test_committed_shards_are_those_of_the_fingerprint(store: RunStore, tmp_path: Path) -> None:
    manifest = commit(store, tmp_path)
    commit(store, tmp_path, shard_id=12)
    create_manifest(store, replace(manifest, fingerprint="f1", shard_id=7))
    store.replace("manifests/download/f0/notes.json", b"{}")
    assert committed_shards(store, "download", "f0") == {3, 12}
    assert committed_shards(store, "download", "f1") == {7}
    assert committed_shards(store, "download", "f2") == set()


def test_iteration_stops_at_the_first_missing_shard(store: RunStore, tmp_path: Path) -> None:
    commit(store, tmp_path, shard_id=0)
    commit(store, tmp_path, shard_id=2)
    found = Committed(store, "download", "f0").manifests(3)
    assert next(found).shard_id == 0
    with pytest.raises(ShardError, match=r"000001\.json: missing"):
        next(found)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
