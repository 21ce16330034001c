"""Fixtures that every test may use."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.bench.s3_emulator import S3Endpoint, s3_emulator

# Two test processes on two cores: a pool of threads in each would only wait for the other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For pytest-xdist: what one process runs as a whole, the longest first.

    Tests on Ray share its one local instance, and so stay together. Tests of a file share its
    fixtures. Whole commands bring a Ray of their own, and run beside.
    """
    if not hasattr(config, "workerinput"):
        return
    first = {"ray": 0, "e2e": 1}
    groups = [_group(item) for item in items]
    for item, group in zip(items, groups, strict=True):
        item.add_marker(pytest.mark.xdist_group(group))
    order = sorted(range(len(items)), key=lambda at: first.get(groups[at], 2))
    items[:] = [items[at] for at in order]


def _group(item: pytest.Item) -> str:
    for name in ("e2e", "ray"):
        if item.get_closest_marker(name):
            return name
    if item.nodeid.startswith("tests/hostile/"):  # one world a process; all of it is a long list
        return item.nodeid if os.environ.get("HOSTILE_SHARE") == "1" else "hostile"
    return item.nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real files beside the project; the test is skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("LATENT_FOUNDRY_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set LATENT_FOUNDRY_SHARED to its parent")
    return folder


@pytest.fixture(scope="session")
def served_list(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The contract tests' list (`cases.ServedList`), served on loopback."""
    from jobs.demo.server import LoopbackServer
    from tests.contracts import cases

    folder = tmp_path_factory.mktemp("pictures")
    cases.write_pictures(folder)
    with LoopbackServer(folder) as server:
        path = tmp_path_factory.mktemp("list") / "list.parquet"
        cases.write_list(path, server.url)
        yield cases.ServedList(path=path, server=server)


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium (Debian's, else Playwright's own); skips, saying so, without one.

    Of each test its own: Playwright's event loop would be in the way of a notebook's.
    """
    from playwright.sync_api import Error, sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    installed = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        try:
            # Chromium's own sandbox needs rights that a container's root has not.
            found = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[S3Endpoint]:
    """A moto server in a process of its own, which other processes reach as well."""
    with s3_emulator() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One small local Ray for the whole session: 4 logical CPUs and 2 logical GPUs."""
    import ray

    root = str(Path(__file__).resolve().parents[1])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = root if not before else f"{root}{os.pathsep}{before}"
    # A socket's path is limited to 107 bytes, so Ray's folder cannot be under pytest's.
    with tempfile.TemporaryDirectory(prefix="lf-", dir="/tmp") as folder:
        ray.init(
            num_cpus=4,
            num_gpus=2,
            include_dashboard=False,
            object_store_memory=200_000_000,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        try:
            yield
        finally:
            ray.shutdown()
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
