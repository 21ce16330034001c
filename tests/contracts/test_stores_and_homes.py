"""What every command takes: `~` in its paths, and the options that the run's store needs."""

import argparse
import importlib
import json
from pathlib import Path

import pytest
import s3fs

from jobs import clean, curate, export, report, status, takedown, train, verify, why
from jobs.__main__ import COMMANDS
from jobs.bench.s3_emulator import S3Endpoint
from pipelines import open_run
from tests.contracts import cases, generation_cases, source_cases, training_cases

pytestmark = pytest.mark.slow
DEMO = str(cases.ROOT / "configs/curate/demo.yaml")
NO_PATHS = {
    "set",
    "steps",
    "where",
    "columns",
    "row",
    "prefix",
    "command",
    "shell",
    "grace",
    "url_column",
    "caption_column",
    "host",
    "port",
}
"""Options that take a text which is no path."""


def _actions(command: str) -> list[argparse.Action]:
    make_parser = getattr(importlib.import_module(f"jobs.{command}"), "make_parser", None)
    return [] if make_parser is None else list(make_parser()._actions)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_path_on_a_command_line_may_begin_with_the_home(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for action in _actions(command):
        if action.nargs == 0 or action.choices or action.dest in NO_PATHS or action.dest == "limit":
            continue
        assert callable(action.type), f"{command} {action.dest}"
        assert str(action.type("~/a")) == "/home/someone/a", f"{command} {action.dest}"


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"keys", "init", "completion"}))
def test_every_command_takes_the_options_of_a_store(command: str) -> None:
    assert any(action.dest == "storage_options" for action in _actions(command))


def _settings(**settings: object) -> list[str]:
    given = {
        "score": "null",
        "encode": "null",
        "select": "{}",
        "plan.rows_per_shard": 3,
        "image.min_side_px": 8,
        "engine.runner": "local",
    } | {name.replace("__", "."): value for name, value in settings.items()}
    return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]


def _pictures(folder: Path) -> Path:
    members = [(f"{n:03d}.jpg", source_cases.picture(30 * n)) for n in range(5)]
    return source_cases.write_tar(folder / "pictures.tar", members)


def test_a_home_stands_in_configurations_and_on_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    _pictures(home)
    (home / "words.txt").write_text("nothing of this\n")
    (home / "my.yaml").write_text(Path(DEMO).read_text() + "\nstorage_options: {}\n")
    rules = "[{block_words: ~/words.txt}]"
    settings = _settings(source__path="~/pictures.tar", output="~/run", select__rules=rules)
    assert curate.main(["--config", "~/my.yaml", *settings]) == 0
    run = open_run("~/run")
    key = run.kept(["key"])["key"][0].as_py()
    (home / "keys.txt").write_text(f"{key}\n")
    for main, arguments in (
        (verify.main, ["~/run", "--deep"]),
        (status.main, ["~/run"]),
        (why.main, ["~/run", key]),
        (export.main, ["~/run", "--to", "~/set", "--format", "folder"]),
        (report.main, ["~/run", "--output", "~/page.html"]),
        (takedown.main, ["~/run", "--keys", "~/keys.txt"]),
        (clean.main, ["~/run", "--grace", "0"]),
    ):
        assert main(arguments) == 0, (main, capsys.readouterr().err)
    assert {path.name for path in home.iterdir()} >= {"run", "set", "page.html"}
    assert list(elsewhere.iterdir()) == []


def test_a_run_on_a_store_is_opened_by_every_command_with_the_options_of_a_file(
    s3_endpoint: S3Endpoint,
    latents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret = "geheim-4711"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    options = {**s3_endpoint.storage_options, "secret": secret}
    given = tmp_path / "options.json"
    given.write_text(json.dumps(options))
    with_options = ["--storage-options", str(given)]
    store = f"s3://{s3_endpoint.bucket}/{tmp_path.name}"
    filesystem = s3fs.S3FileSystem(**options)
    filesystem.put(str(latents), f"{store}/latents", recursive=True)
    filesystem.put_file(str(_pictures(tmp_path)), f"{store}/pictures.tar")
    settings = _settings(source__path=f"{store}/pictures.tar", output=f"{store}/run")
    assert curate.main(["--config", DEMO, *with_options, *settings]) == 0
    key = open_run(f"{store}/run", storage_options=options).kept(["key"])["key"][0].as_py()
    filesystem.pipe_file(f"{store}/keys.txt", f"{key}\n".encode())
    prompts = generation_cases.write_prompts(tmp_path / "p.parquet", generation_cases.prompts(1))
    config = training_cases.write_config(tmp_path / "t.yaml", latents, tmp_path, loop__steps=2)
    training = _settings(output=f"{store}/training", data__0__path=f"{store}/latents")[-4:]
    for main, arguments in (
        (curate.main, ["--config", DEMO, *settings, "--plan"]),
        (train.main, ["--config", str(config), *training]),
        (verify.main, [f"{store}/run", "--deep"]),
        (verify.main, [f"{store}/training"]),
        (status.main, [f"{store}/run"]),
        (why.main, [f"{store}/run", key]),
        (export.main, [f"{store}/run", "--to", f"{store}/set", "--format", "parquet"]),
        (report.main, [f"{store}/run"]),
        (takedown.main, [f"{store}/run", "--keys", f"{store}/keys.txt", "--trainings", store]),
        (clean.main, [f"{store}/run", "--grace", "0", "--crops"]),
        (verify.main, [f"{store}/run", "--deep"]),
    ):
        assert main([*arguments, *with_options]) == 0, (main, capsys.readouterr().err)
    assert generation_cases.command(prompts, f"{store}/images", *with_options) == 0
    told = capsys.readouterr()
    assert secret not in told.out + told.err
    for path in filesystem.find(store):
        assert secret.encode() not in filesystem.cat_file(path), path


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[geheim]", "a list: give a mapping"),
        (b"{key: geheim, secret: [geheim]}", "secret: give a mapping"),
        (b"{key: 'geheim", "neither JSON nor YAML: line"),
        (b"\xff\xfe geheim", "no text"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_holds_no_options_is_refused_and_not_shown(
    content: bytes | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "options.yaml"
    if content is not None:
        path.write_bytes(content)
    assert verify.main([str(tmp_path / "run"), "--storage-options", str(path)]) == 2
    told = capsys.readouterr().err
    assert f"--storage-options {path}: {named}" in told
    assert "geheim" not in told
