"""Lists of prompts that are text, through the real command: read as lists of URLs are."""

from pathlib import Path

import pytest

from jobs import generate
from tests.contracts import generation_cases
from tests.contracts.cases import ROOT

pytestmark = pytest.mark.slow


def run_job(path: Path, output: Path, *settings: str, options: tuple[str, ...] = ()) -> int:
    arguments = ["--config", str(ROOT / "configs/generate/tiny.yaml"), *options]
    told = [f"prompts.path={path}", f"output={output}", "score=null", "engine.runner=local"]
    told += ["generate.defaults.num_inference_steps=1", "generate.defaults.guidance_scale=1.0"]
    for setting in [*told, *settings]:
        arguments += ["--set", setting]
    return generate.main([*arguments, "--steps", "generate"])


def prompts_of(output: Path) -> list[str]:
    (path,) = (output / "_work/plan/prompts").glob("*.parquet")
    found: list[str] = generation_cases.pq.read_table(path)["prompt"].to_pylist()
    return found


def test_raw_quotes_of_tsv_and_every_line_end_are_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ['6" pipe', '"half', '"a sign"', "café"]
    path = tmp_path / "p.tsv"
    path.write_bytes(("prompt\tseed\r" + "".join(f"{t}\t1\r" for t in texts)).encode("utf-16"))
    assert run_job(path, tmp_path / "run") == 0
    assert prompts_of(tmp_path / "run") == texts
    said = capsys.readouterr().out
    assert "prompts: fields of the list stand in quotes" in said
    assert "prompts.csv.quoting" in said


@pytest.mark.parametrize(
    ("kind", "content", "option"),
    [
        ("csv", b'prompt\na\n"b\nc\n', "prompts.csv.quoting"),
        ("csv", b"prompt\na\ncaf\xe9\n", "prompts.csv.encoding"),
        ("txt", b"a\ncaf\xe9\n", "prompts.csv.encoding"),
        ("jsonl", b'{"prompt": "caf\xe9"}\n', "prompts.csv.encoding"),
        ("txt", "a star\na circle\n".encode("utf-16-le"), "prompts.csv.encoding"),
        ("csv", b"prompt;seed\na;1\n", "prompts.csv.delimiter"),
    ],
)
def test_a_list_of_prompts_that_is_written_otherwise_is_refused_by_the_option(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    content: bytes,
    option: str,
) -> None:
    path = tmp_path / f"p.{kind}"
    path.write_bytes(content)
    assert run_job(path, tmp_path / "run") == 2
    assert option in capsys.readouterr().err


def test_a_text_list_of_prompts_grows_as_it_was_written(tmp_path: Path) -> None:
    path, output = tmp_path / "p.txt", tmp_path / "run"
    told = "prompts.csv.encoding=cp1252"
    path.write_bytes("straße\r“café”".encode("cp1252"))
    assert run_job(path, output, told) == 0
    path.write_bytes("straße\r“café”\rniño\r".encode("cp1252"))
    assert run_job(path, output, told, options=("--grow",)) == 0
    tables = sorted((output / "_work/plan/prompts").glob("*.parquet"))
    read = generation_cases.pq.read_table
    assert [read(one)["prompt"].to_pylist() for one in tables] == [["straße", "“café”"], ["niño"]]
