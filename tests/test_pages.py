"""The pages for people are true where a program can tell: files, targets, commands, sizes."""

import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import curate, generate, train
from pipelines.config import load_config
from pipelines.training.config import AutoencoderTrainConfig, TrainConfig
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.generate_config import GenerateJobConfig

ROOT = Path(__file__).resolve().parents[1]
FOLDER_PAGES = ("configs/deploy/README.md", "sd_core/presets/tiny/README.md")
PAGES = ("README.md", "GUIDE.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "MEASURED.md")
TOP = "(?:sd_core|pipelines|jobs|configs|tests|notebooks|\\.ci)"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", text_of(page), re.M | re.S)


def named_paths(page: str) -> set[str]:
    """Every path of ours that stands in code, fenced or not."""
    text = text_of(page)
    code = " ".join([*re.findall(r"`([^`\n]+)`", text), *fenced(page)])
    return set(re.findall(rf"(?<![\w./-])({TOP}/[\w./-]*\w)", code))


def commands(page: str) -> Iterator[list[str]]:
    """Each command of ours on the page as words: a module or a file of `jobs`, then arguments."""
    for block in fenced(page):
        for line in block.replace("\\\n", " ").splitlines():
            words = list(itertools.takewhile(">".__ne__, shlex.split(line, comments=True)))
            if "python" in words:
                yield words[words.index("python") + 1 :]
            elif "latent-foundry" in words:
                name, *arguments = words[words.index("latent-foundry") + 1 :]
                yield [f"jobs/{name}.py", *arguments]


COMMANDS = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("page", [*PAGES, *FOLDER_PAGES])
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    paths = named_paths(page)
    assert paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_test_of_the_table_of_faults_is_there() -> None:
    """Its paths begin in `tests`; a name without a folder lies beside the one before it."""
    folder = ROOT / "tests"
    for path in re.findall(
        r"`([\w./]+(?:/|\.py))`", text_of("tests/README.md").split("| kind |")[1]
    ):
        folder = (ROOT / "tests" / path).parent if "/" in path.rstrip("/") else folder
        assert (folder / path.split("/")[-1]).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        path, _, part = target.partition("#")
        linked = ROOT / path if path else ROOT / page
        assert linked.exists(), target
        if part:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}
            assert part in slugs, target


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_of_a_page_is_one(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.M))
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text_of(page)), *fenced(page)])
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= targets


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: " ".join(value)[:60])
def test_every_command_is_one_that_its_job_understands(page: str, command: list[str]) -> None:
    name, arguments = command[0], command[1:]
    if name == "-m":
        name, arguments = arguments[0], arguments[1:]
        main = importlib.import_module(name if "." in name[5:] else f"{name}.__main__")
    else:
        main = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    parse = main.make_parser().parse_args if hasattr(main, "make_parser") else main._parse
    assert parse(arguments) is not None


def test_the_readmes_own_settings_are_of_the_configurations() -> None:
    """Of each job, the first command with a configuration that ships: its file and every `--set`
    are read as the job reads them."""
    for job, model in (
        (curate, CurateConfig),
        (train, TrainConfig),
        (generate, GenerateJobConfig),
    ):
        name = f"{job.__name__.replace('.', '/')}.py"
        found = [words[1:] for words in commands("README.md") if words[0] == name]
        every = (job.make_parser().parse_args(words) for words in found)
        options = next(options for options in every if (ROOT / options.config).exists())
        config = load_config(model, ROOT / options.config, overrides=options.set)
        assert config.output.startswith("/data/")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.yaml")), ids=str)
def test_every_shipped_configuration_is_one(path: Path) -> None:
    models = {
        "curate": CurateConfig,
        "generate": GenerateJobConfig,
        "train": AutoencoderTrainConfig if "autoencoder" in path.name else TrainConfig,
    }
    if path.parent.name in models:
        load_config(models[path.parent.name], path)


def test_the_readme_is_short_and_the_architecture_is_one_page() -> None:
    assert len(text_of("README.md").splitlines()) <= 120
    assert len(text_of("ARCHITECTURE.md").splitlines()) <= 70


def test_the_architecture_answers_the_three_questions_with_a_file_each() -> None:
    rows = re.findall(
        r"^\| Where .*\*\*(.*?)\*\*.* \| `(.*?)` \|", text_of("ARCHITECTURE.md"), re.M
    )
    assert dict(rows) == {
        "reason": "pipelines/steps/select/step.py",
        "bytes become visible": "pipelines/run/manifest.py",
        "GPU": "pipelines/engine/cluster.py",
    }
    for name, path in (
        ("_judge_shard", rows[0][1]),
        ("commit_shard", rows[1][1]),
        ("model_resources", rows[2][1]),
    ):
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_the_worked_examples_are_the_files_that_the_tests_run() -> None:
    shown = re.findall(
        r"<!-- example: (\S+) -->\n```python\n(.*?)^```", text_of("CONTRIBUTING.md"), re.M | re.S
    )
    assert [path.split("_")[-1] for path, _ in shown] == [
        "scorer.py",
        "source.py",
        "filter.py",
        "step.py",
    ]
    for path, code in shown:
        assert (ROOT / path).read_text(encoding="utf-8") == code, path


def test_a_version_has_its_part_in_the_changelog() -> None:
    version = re.search(r'^version = "(.*)"$', text_of("pyproject.toml"), re.M)
    heads = re.findall(r"^## (.*)$", text_of("CHANGELOG.md"), re.M)
    assert version is not None
    assert heads[:2] == ["Unreleased", version[1]]
