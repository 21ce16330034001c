"""Fixtures that every test may use."""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real files beside the project; the test is skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("LATENT_FOUNDRY_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set LATENT_FOUNDRY_SHARED to its parent")
    return folder


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
