"""One name for every command, from any folder, with the configurations that ship."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.__main__ import COMMANDS, main
from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, draw

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_of_itself_how_it_is_called(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["latent-foundry"])
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: latent-foundry {command} ")


def test_a_command_that_is_none_is_refused_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["curat"])
    assert ended.value.code == 2
    assert "'curate'" in capsys.readouterr().err


def test_a_shipped_configuration_goes_by_its_name_and_a_file_of_that_name_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["latent-foundry"])
    monkeypatch.chdir(tmp_path)
    assert main(["curate", "--config", "demo", "--set", "no.such=1"]) == 2
    assert f"{ROOT}/configs/curate/demo.yaml" in capsys.readouterr().err
    (tmp_path / "demo").write_text("mine: 1\n")
    assert main(["curate", "--config", "demo"]) == 2
    assert "mine: unknown key" in capsys.readouterr().err


def test_keys_are_told_with_type_default_and_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["latent-foundry"])
    assert main(["keys", "download.retries"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("download.retries: whole number")
    assert "default: 2" in told
    assert main(["keys", "download."]) == 0
    assert "download.timeout_s: " in (told := capsys.readouterr().out)
    assert "image.size" not in told
    assert main(["keys", "--of", "train", "download."]) == 2
    assert "no such key or section" in capsys.readouterr().err


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel unpacks to; pip would put its files into `site-packages`."""
    source, unpacked = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("unpacked")
    for name in ("configs", "jobs", "pipelines", "sd_core"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('wheel')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (made,) = (source / "wheel").glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        archive.extractall(unpacked)
    return unpacked


@pytest.mark.slow
def test_the_wheel_holds_the_command_and_every_file_that_is_no_code(wheel: Path) -> None:
    (entry,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "latent-foundry = jobs.__main__:main" in entry.read_text()
    shipped = {path for path in (ROOT / "configs").glob("*/*.yaml") if path.parent.name != "deploy"}
    for folder in ("sd_core/presets/tiny", "pipelines/report/templates"):
        shipped |= {path for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert [path for path in shipped if not (wheel / path.relative_to(ROOT)).is_file()] == []


@pytest.mark.slow
def test_a_folder_of_pictures_is_curated_from_another_folder_by_what_the_wheel_holds(
    wheel: Path, tmp_path: Path
) -> None:
    for number in range(3):
        picture = draw(FIRST_HELD_OUT_SEED + number, width=96, height=80)
        Image.fromarray(np.asarray(picture.image)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(picture.caption)
    settings = [f"source.path={tmp_path}", f"output={tmp_path}/run", "engine.runner=local"]
    curate = ["curate", "--config", "demo", *(w for s in settings for w in ("--set", s))]
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *curate],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "encode: complete, 3 of 3 rows kept" in done.stdout
