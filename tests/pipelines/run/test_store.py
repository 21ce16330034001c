"""A run's folder, on local disk and on an S3 server on loopback."""

import os
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.bench.s3_emulator import S3Endpoint
from pipelines.run.store import RunStore, StorageError


@pytest.fixture
def local(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunStore]:
    if request.param == "local":
        yield RunStore(str(tmp_path / "run"))
        return
    endpoint: S3Endpoint = request.getfixturevalue("s3_endpoint")
    root = f"s3://{endpoint.bucket}/{request.node.name}"
    yield RunStore(root, endpoint.storage_options)


def test_relative_root_is_refused() -> None:
    with pytest.raises(StorageError, match="relative path; give an absolute path or a URL"):
        RunStore("some/run")


def test_storage_options_are_not_shown(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path), {"secret": "hunter2"})
    assert "hunter2" not in repr(store)


def test_store_travels_to_another_process(store: RunStore) -> None:
    store.replace("a/b", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read_bytes("a/b") == b"1"
    assert copy.storage_options == dict(store.storage_options)


def test_exclusive_create_leaves_the_first_content(store: RunStore) -> None:
    assert store.create_exclusive("deep/folder/a", b"first")
    assert not store.create_exclusive("deep/folder/a", b"second")
    assert store.read_bytes("deep/folder/a") == b"first"
    assert store.list_files("deep/folder") == ["a"]


def test_exclusive_create_has_one_winner_in_a_race_of_threads(local: RunStore) -> None:
    contents = [str(number).encode() * 100 for number in range(16)]
    for round_ in range(20):
        path = f"race/{round_}"
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda c, path=path: local.create_exclusive(path, c), contents))
        assert won.count(True) == 1
        assert local.read_bytes(path) == contents[won.index(True)]


def test_exclusive_create_after_a_delete_succeeds(store: RunStore) -> None:
    assert store.create_exclusive("a", b"1")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")
    assert store.create_exclusive("a", b"2")


def test_replace_overwrites(store: RunStore) -> None:
    store.replace("a/b", b"1")
    store.replace("a/b", b"22")
    assert store.read_bytes("a/b") == b"22"
    assert store.size("a/b") == 2


def test_missing_file_is_file_not_found(store: RunStore, tmp_path: Path) -> None:
    store.replace("there", b"")
    assert not store.exists("gone")
    assert store.list_files("gone") == []
    for ask in (store.read_bytes, store.size, lambda path: store.fetch(path, tmp_path / "copy")):
        with pytest.raises(FileNotFoundError):
            ask("gone")
    with pytest.raises(FileNotFoundError), store.open("gone"):
        pass


def test_file_of_another_writer_is_seen_at_once(store: RunStore) -> None:
    store.replace("folder/a", b"1")
    assert store.list_files("folder") == ["a"]
    other = RunStore(store.root, {**store.storage_options, "skip_instance_cache": True})
    other.replace("folder/b", b"22")
    assert store.list_files("folder") == ["a", "b"]
    assert store.exists("folder/b")
    assert store.size("folder/b") == 2


def test_put_file_and_fetch_and_open_give_the_same_bytes(store: RunStore, tmp_path: Path) -> None:
    content = os.urandom(200_000)
    (tmp_path / "spooled").write_bytes(content)
    store.put_file(tmp_path / "spooled", "images/a.tar")
    store.fetch("images/a.tar", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    with store.open("images/a.tar") as stream:
        stream.seek(100)
        assert stream.read(10) == content[100:110]


def test_put_file_that_fails_leaves_neither_half_a_file_nor_its_temporary(
    local: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "spooled"
    source.write_bytes(b"x" * 1000)

    def copy_half(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"x" * 500)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", copy_half)
    with pytest.raises(OSError, match="No space left"):
        local.put_file(source, "images/a.tar")
    assert not local.exists("images/a.tar")
    assert os.listdir(local.absolute("images")) == []


@pytest.mark.parametrize("write", ["replace", "create_exclusive"])
def test_small_write_that_fails_keeps_the_earlier_content(
    local: RunStore, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    local.replace("kept", b"earlier")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    path = "kept" if write == "replace" else "new"
    with pytest.raises(OSError, match="Input/output error"):
        getattr(local, write)(path, b"later")
    assert local.read_bytes("kept") == b"earlier"
    assert local.at_top().list_files("_work") == ["kept"]


def test_a_file_being_written_is_not_listed(local: RunStore) -> None:
    local.replace("folder/a", b"1")
    Path(local.absolute("folder/.tmp-123")).write_bytes(b"half")
    assert local.list_files("folder") == ["a"]


@pytest.mark.parametrize("name", ["run*", "run?", "run[12]"])
def test_a_store_whose_path_reads_as_a_pattern_removes_its_own_files_and_no_other_s(
    name: str,
) -> None:
    store = RunStore(f"memory://patterns/{name}", flat=True)
    other = RunStore("memory://patterns/run1", flat=True)
    for each in (store, other):
        for path in ("a", "b", "folder/c", "folder/d/e"):
            each.replace(path, b"x")
    store.delete_all(["a", "gone"])
    store.delete_folder("folder")
    assert (store.list_files(""), store.list_folders("")) == (["b"], [])
    assert (other.list_files(""), other.list_folders("")) == (["a", "b"], ["folder"])
