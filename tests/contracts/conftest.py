"""One unharmed local run, shared by the contract tests."""

from pathlib import Path

import pytest

from tests.contracts import cases


@pytest.fixture(scope="session")
def unharmed_run(served_list: cases.ServedList, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference: one local run, from start to end, of the contract tests' list."""
    output = tmp_path_factory.mktemp("unharmed")
    cases.run(cases.configuration(served_list.path, output))
    return output
