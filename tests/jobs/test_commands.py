"""One name for every command, from any folder, with the configurations that ship."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jobs.__main__ import COMMANDS, main

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


@pytest.mark.slow
def test_the_wheel_holds_configurations_presets_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("configs", "jobs", "pipelines", "sd_core"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('wheel')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "latent-foundry = jobs.__main__:main" in archive.read(entry).decode()
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*/*.yaml")}
    shipped = {name for name in shipped if "/deploy/" not in name}
    assert shipped
    assert shipped <= names
    presets = ROOT / "sd_core/presets/tiny"
    assert {str(path.relative_to(ROOT)) for path in presets.rglob("*") if path.is_file()} <= names
