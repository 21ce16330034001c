"""A running loopback server and a fetcher that may use it."""

from collections.abc import Callable, Iterator

import pytest

from pipelines.demo.server import LoopbackServer
from pipelines.stages.download.config import DownloadConfig
from pipelines.stages.download.fetch import Fetcher


@pytest.fixture(scope="session")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.fixture
def make_fetcher() -> Iterator[Callable[..., Fetcher]]:
    """Fetchers that may fetch from 127.0.0.0/8 retry at once; closed after the test."""
    made: list[Fetcher] = []

    def make(*, resolver=None, tls=None, **options) -> Fetcher:
        settings = {
            "allow_networks": ("127.0.0.0/8",),
            "timeout_s": 30.0,
            "backoff_s": 0.01,
            **options,
        }
        made.append(Fetcher(DownloadConfig(**settings), resolver=resolver, tls=tls))
        return made[-1]

    yield make
    for fetcher in made:
        fetcher.close()
