"""The suite of faults: one small world for all of its tests, and the table at the end."""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.hostile import tally as tallies
from tests.hostile.tally import Tally
from tests.hostile.world import World, open_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Pictures, lists and unharmed runs, made when they are first asked for."""
    with open_world(tmp_path_factory.mktemp("world")) as opened:
        yield opened


@pytest.fixture
def tally(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[[str], Tally]:
    """Make the tally of a test by the kind of its faults; it is closed by the test itself."""
    return lambda kind: Tally(record_property, kind, request.node.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    counts = [
        json.loads(str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, value in report.user_properties
        if name == "hostile"
    ]
    if counts:
        terminalreporter.section("hostile")
        for line in tallies.table(counts):
            terminalreporter.write_line(line)
