"""What the code imports is declared in pyproject.toml, and what is declared is used."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED = packages_distributions()
OURS = {"sd_core", "pipelines", "jobs", "tests"}
NOT_IMPORTED = {  # used all the same
    "img2dataset",  # one module of it, found by its path, and its command
    "standard-imghdr",  # by img2dataset's resizer, where Python has none
    "tensorboard",  # by torch.utils.tensorboard
    "webdataset",  # what a run's tars are opened with
}
OPTIONAL = {"wandb", "polars"}
"""wandb only where a configuration names a
project of it, and the key's text says so; polars where a bench finds it."""
BENCH = ("jobs", "bench")  # no part of the product
OF_TYPES = {"_typeshed"}  # for type checkers alone


def declared(requirements: list[str]) -> set[str]:
    found = {re.match(r"[\w.-]+", requirement) for requirement in requirements}
    return {normal(match.group()) for match in found if match is not None}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: str) -> Iterator[tuple[str, Path]]:
    """Each module that is imported from elsewhere, with a file that does so."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                names = [node.module]
            yield from ((name, path.relative_to(ROOT)) for name in names)


def distributions(module: str) -> set[str]:
    """The distributions that a module may come from; none for one of Python or of ours."""
    top = module.partition(".")[0]
    if top in ("backports", "compression"):  # zstd: Python's own from 3.14 on
        return {"backports-zstd"}
    if top in sys.stdlib_module_names | OURS | OF_TYPES | OPTIONAL:
        return set()
    return {normal(name) for name in INSTALLED.get(top, [module])}


@pytest.mark.parametrize("folder", ["sd_core", "pipelines", "jobs", "tests"])
def test_what_is_imported_is_declared(folder: str) -> None:
    product = declared(PROJECT["dependencies"])
    for extra in ("s3", "detectors"):  # opened where a URL, or the configuration, asks for it
        product |= declared(PROJECT["optional-dependencies"][extra])
    measuring = product | declared(PROJECT["optional-dependencies"]["dev"])
    missing = {
        f"{path}: {module}"
        for module, path in imported(folder)
        if (sources := distributions(module))
        and not sources & (measuring if path.parts[:2] == BENCH or folder == "tests" else product)
    }
    assert not missing


def test_what_is_declared_is_imported() -> None:
    used = set().union(
        *(distributions(module) for folder in OURS - {"tests"} for module, _ in imported(folder))
    )
    assert declared(PROJECT["dependencies"]) - used - NOT_IMPORTED == set()


def holds_here(requirement: str) -> bool:
    """Whether it is one of this Python; the lock is made with one."""
    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate()


def test_every_dependency_is_in_the_lock() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = {normal(line.partition("==")[0]) for line in lines if "==" in line}
    for requirements in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        here = [line for line in requirements if holds_here(line)]
        assert declared(here) <= locked
