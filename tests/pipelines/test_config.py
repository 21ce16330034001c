"""Configuration: every fault at once, with the key, what was found and what is allowed."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from pipelines.config import Config, ConfigError, load_config, validate_config


class Bounds(Config):
    min: float | None = None
    max: float | None = None


class Fetch(Config):
    timeout_s: float = Field(default=10.0, gt=0.0)
    retries: int = Field(default=2, ge=0, le=10)
    networks: tuple[str, ...] = ()
    password: str = ""


class Job(Config):
    output: str
    mode: Literal["fast", "exact"] = "exact"
    threads: Literal["auto"] | int = "auto"
    fetch: Fetch = Fetch()
    rules: dict[str, Bounds] = Field(default_factory=dict)
    sources: list[Fetch] = Field(default_factory=list)
    folder: Path | None = None
    extra: Bounds | None = None


def problems(text: str, tmp_path: Path, *overrides: str) -> list[str]:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Job, path, overrides=overrides)
    return str(caught.value).splitlines()


def load(text: str, tmp_path: Path, *overrides: str) -> Job:
    path = tmp_path / "good.yaml"
    path.write_text(text)
    return load_config(Job, path, overrides=overrides)


def test_valid_file_is_loaded_with_its_defaults(tmp_path: Path) -> None:
    job = load("output: /run\nfetch: {timeout_s: 5, networks: [127.0.0.0/8]}\n", tmp_path)
    assert job.fetch == Fetch(timeout_s=5.0, networks=("127.0.0.0/8",))
    assert job.mode == "exact"


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    text = """
mode: slow
fetch: {timeout_s: -1, retries: "3", retrys: 2}
rules: {size: {mim: 3}}
sources: [{}, {retries: 11}]
extra: {nonsense: 1}
"""
    lines = problems(text, tmp_path)
    assert lines[0] == f"{tmp_path / 'bad.yaml'}: 8 problem(s)"
    assert sorted(lines[1:]) == [
        "  - extra.nonsense: unknown key; allowed: max, min",
        "  - fetch.retries: input should be a valid integer, got '3'",
        "  - fetch.retrys: unknown key; did you mean 'retries'?",
        "  - fetch.timeout_s: input should be greater than 0, got -1",
        "  - mode: input should be 'fast' or 'exact', got 'slow'",
        "  - output: required, not set",
        "  - rules.size.mim: unknown key; did you mean 'min'?",
        "  - sources.1.retries: input should be less than or equal to 10, got 11",
    ]


def test_unknown_section_names_the_nearest(tmp_path: Path) -> None:
    [_, line] = problems("output: /run\nfecth: {}\n", tmp_path)
    assert line == "  - fecth: unknown key; did you mean 'fetch'?"


def test_wrong_type_of_a_section_is_named(tmp_path: Path) -> None:
    [_, line] = problems("output: /run\nfetch: [1]\n", tmp_path)
    assert line == "  - fetch: input should be an object, got list"


def test_value_that_may_have_several_types_is_one_problem(tmp_path: Path) -> None:
    expected = "  - threads: input should be 'auto' or a valid integer, got "
    assert problems("output: /run\nthreads: many\n", tmp_path)[1:] == [f"{expected}'many'"]
    assert problems("output: /run\nthreads: {a: 1}\n", tmp_path)[1:] == [f"{expected}dict"]


def test_configuration_is_frozen(tmp_path: Path) -> None:
    job = load("output: /run\n", tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        job.output = "/other"


def test_key_given_twice_is_refused(tmp_path: Path) -> None:
    [line] = problems("output: /a\nfetch:\n  retries: 1\n  retries: 2\n", tmp_path)
    assert line.endswith("line 4, column 3: the key 'retries' is there twice")


@pytest.mark.parametrize("word", ["on", "off", "yes", "no"])
def test_words_are_text_and_only_true_and_false_are_boolean(tmp_path: Path, word: str) -> None:
    assert load(f"output: {word}\n", tmp_path).output == word
    [_, line] = problems("output: true\n", tmp_path)
    assert line == "  - output: input should be a valid string, got True"


def test_number_with_an_exponent_is_a_number(tmp_path: Path) -> None:
    assert load("output: /a\nfetch: {timeout_s: 1e-4}\n", tmp_path).fetch.timeout_s == 1e-4
    assert load("output: /a\n", tmp_path, "fetch.timeout_s=2E3").fetch.timeout_s == 2000.0


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just text\n"])
def test_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    [line] = problems(text, tmp_path)
    assert "the top level must be a mapping, got" in line


def test_empty_file_lacks_what_is_required(tmp_path: Path) -> None:
    assert problems("", tmp_path)[1] == "  - output: required, not set"


def test_missing_file_and_broken_yaml_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        load_config(Job, tmp_path / "gone.yaml")
    [line] = problems("output: [1\n", tmp_path)
    assert "bad.yaml: not YAML: line 2, column 1: " in line


@pytest.mark.parametrize("value", ["2026-11-21", ".nan", ".inf"])
def test_value_that_json_cannot_hold_says_what_to_do(tmp_path: Path, value: str) -> None:
    [line] = problems(f"output: /a\nfetch: {{timeout_s: {value}}}\n", tmp_path)
    assert "not plain text, number, list or mapping" in line


# --set ---------------------------------------------------------------------------------------


def test_overrides_go_on_top_in_order(tmp_path: Path) -> None:
    job = load(
        "output: /a\nfetch: {retries: 1}\nsources: [{retries: 1}, {retries: 2}]\n",
        tmp_path,
        "output=/b",
        "fetch.retries=3",
        "fetch.retries=4",
        "fetch.networks=[127.0.0.0/8, 10.0.0.0/8]",
        "rules.size.min=2",
        "sources.1.retries=5",
        "extra=null",
        "folder=/tmp/x=y",
    )
    assert job.output == "/b"
    assert job.fetch == Fetch(retries=4, networks=("127.0.0.0/8", "10.0.0.0/8"))
    assert job.rules == {"size": Bounds(min=2.0)}
    assert [source.retries for source in job.sources] == [1, 5]
    assert job.folder == Path("/tmp/x=y")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output", "--set output: expected section.field=value"),
        ("=1", "--set =1: expected section.field=value"),
        ("fetch..retries=1", "--set fetch..retries=1: expected section.field=value"),
        ("output.field=1", "--set output.field: output is a value, not a section"),
        ("sources.2.retries=1", "sources is a list of 1; '2' is not one of its indices"),
        ("sources.²=1", "sources is a list of 1; '²' is not one of its indices"),
        ("output=[1", "--set output: not YAML: line 1, column 3: "),
    ],
)
def test_override_that_cannot_be_applied_is_refused(
    tmp_path: Path, override: str, message: str
) -> None:
    [line] = problems("output: /a\nsources: [{}]\n", tmp_path, override)
    assert message in line


def test_override_of_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    [_, line] = problems("output: /a\n", tmp_path, "fetch.timeout=3")
    assert line == "  - fetch.timeout: unknown key; did you mean 'timeout_s'?"


# Secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("fetch: {password: 12345678}", "output=/a"),
        ("fetch: {retries: 's3://me:12345678@host/a'}", "output=/a"),
        ("fetch: [{password: '12345678'", "output=/a"),
        ("fetch: {}", "fetch.password=[12345678"),
    ],
)
def test_secret_is_not_printed(tmp_path: Path, text: str, override: str) -> None:
    assert "12345678" not in "".join(problems(text, tmp_path, override))


def test_mapping_is_validated_without_a_file() -> None:
    assert validate_config(Fetch, {"retries": 1}, where="fetch").retries == 1
    with pytest.raises(ConfigError, match=r"the plan: 1 problem\(s\)"):
        validate_config(Fetch, {"retries": -1}, where="the plan")
