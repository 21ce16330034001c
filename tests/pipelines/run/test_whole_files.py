"""A file is published whole and once, whatever the file system can do."""

import ctypes
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.run.store import RunStore


def refused(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


class OldLibrary:
    """A kernel or file system that knows no such rename."""

    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1


@pytest.fixture(params=["links", "rename", "neither"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunStore:
    if request.param != "links":
        monkeypatch.setattr(os, "link", refused)
    if request.param == "neither":
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: OldLibrary())
    return RunStore(str(tmp_path))


def test_the_first_to_create_a_file_wins_and_nothing_half_written_is_left(store: RunStore) -> None:
    assert store.create_exclusive("a/b", b"first")
    assert not store.create_exclusive("a/b", b"second")
    assert store.read_bytes("a/b") == b"first"
    assert list(store.list_files("a")) == ["b"]
    assert not list(store.half_written())


def test_whoever_sees_a_file_sees_it_whole(store: RunStore) -> None:
    content = b"x" * 200_000

    def seen(number: int) -> None:
        while True:
            try:
                assert store.read_bytes(f"{number}") == content
                return
            except FileNotFoundError:
                continue

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(seen, number) for number in range(4)]
        made = [pool.submit(store.create_exclusive, f"{number}", content) for number in range(4)]
        assert all(each.result() for each in made)
        for reader in readers:
            reader.result()
