"""The worked examples where CONTRIBUTING.md puts them: one file and one line each, no circle."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = Path(__file__).parent
PLACES = {
    "example_scorer.py": ("steps/score/colourfulness.py", "steps/score/scorers.py"),
    "example_source.py": ("sources/arrow_list.py", "sources/formats.py"),
    "example_filter.py": ("rules/ends_with.py", "rules/table.py"),
    "example_step.py": ("steps/thumbnails/__init__.py", "steps/kinds.py"),
}
"""Example to its new file and to the file of its table, under `pipelines/`."""
LINES = {
    "steps/score/scorers.py": ("Colourfulness", '    "colourfulness": Colourfulness,\n'),
    "sources/formats.py": ("ArrowList", '    "arrow": ArrowList(),\n'),
    "rules/table.py": ("EndsWithRule", '    "caption_ends_with": EndsWithRule,\n'),
    "steps/kinds.py": ("THUMBNAILS", "        THUMBNAILS,\n"),
}
"""Table's file to what it imports, and the line."""
CHECK = """
from pipelines.rules.table import RULES
from pipelines.sources.formats import FORMATS
from pipelines.steps.kinds import STEP_KINDS
from pipelines.steps.score.scorers import SCORERS
from pipelines.workflows.curate_config import CurateConfig
print("colourfulness" in SCORERS, "arrow" in FORMATS, "caption_ends_with" in RULES)
print("thumbnails" in STEP_KINDS, list(STEP_KINDS)[-1])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the packages with the four examples in it."""
    for package in ("pipelines", "sd_core", "jobs"):
        ignored = shutil.ignore_patterns("__pycache__", "tiny")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    for example, (place, table) in PLACES.items():
        path = tmp_path / "pipelines" / place
        path.parent.mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / example, path)
        module = "pipelines." + place.removesuffix("/__init__.py").removesuffix(".py")
        name, line = LINES[table]
        statement = f"from {module.replace('/', '.')} import {name}\n"
        add(tmp_path / "pipelines" / table, statement, line)
    return tmp_path


def add(path: Path, statement: str, line: str) -> None:
    """The import at the end of the imports, and the line at the end of the table."""
    text = path.read_text()
    at = text.rindex("\nfrom ") + 1
    at = text.index("\n", text.index(")", at) if "(" in text[at : text.index("\n", at)] else at) + 1
    text = text[:at] + statement + text[at:]
    end = "    )\n}" if "    )\n}" in text else "\n}\n"
    at = text.index(end) + (0 if end.startswith(" ") else 1)
    path.write_text(text[:at] + line + text[at:])


@pytest.mark.slow
def test_each_example_stands_in_the_packages(project: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    for command in (["-c", CHECK], [str(ROOT / ".ci/tree.py")]):
        told = subprocess.run(
            [sys.executable, *command],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        if command[0] == "-c":
            assert told.stdout.split("\n")[:2] == ["True True True", "True thumbnails"]
        else:
            assert "0 circles of files, 0 of packages" in told.stdout
