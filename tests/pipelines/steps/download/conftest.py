"""A running loopback server and a fetcher that may use it."""

from collections.abc import Callable, Iterator

import pytest

from jobs.demo.server import LoopbackServer
from pipelines.steps.download.config import DownloadConfig
from pipelines.steps.download.fetch import Fetcher


@pytest.fixture(scope="session")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.fixture
def make_fetcher() -> Callable[..., Fetcher]:
    """Makes fetchers that may fetch from 127.0.0.0/8 and retry at once."""

    def make(*, resolver=None, tls=None, **options) -> Fetcher:
        settings = {
            "allow_networks": ("127.0.0.0/8",),
            "timeout_s": 30.0,
            "backoff_s": 0.01,
            **options,
        }
        return Fetcher(DownloadConfig(**settings), resolver=resolver, tls=tls)

    return make
