"""One served list and one unharmed local run, shared by the contract tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.demo.server import LoopbackServer
from tests.contracts import cases


@dataclass(frozen=True, kw_only=True)
class ServedList:
    """A list whose URLs are served for the whole test session."""

    path: Path
    server: LoopbackServer


@pytest.fixture(scope="session")
def served_list(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedList]:
    folder = tmp_path_factory.mktemp("pictures")
    cases.write_pictures(folder)
    with LoopbackServer(folder) as server:
        path = tmp_path_factory.mktemp("list") / "list.parquet"
        cases.write_list(path, server.url)
        yield ServedList(path=path, server=server)


@pytest.fixture(scope="session")
def unharmed_run(served_list: ServedList, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference: one local run, from start to end, of the contract tests' list."""
    output = tmp_path_factory.mktemp("unharmed")
    cases.run(cases.configuration(served_list.path, output))
    return output
