"""The shells complete commands, options, names and files, by a script that starts no Python."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import COMMANDS, main


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scripts")
    with pytest.MonkeyPatch.context() as patch:
        for shell in ("bash", "zsh"):
            with (folder / shell).open("w") as stream:
                patch.setattr(sys, "stdout", stream)
                assert main(["completion", shell]) == 0
    return folder


def completed(typed: str, script: Path, folder: Path) -> str:
    """The line after a tab, in a bash of its own at a terminal: `echo` before it shows it."""
    terminal, line = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-i"],
        stdin=line,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "HISTFILE": "/dev/null"},
        text=True,
    )
    os.write(terminal, f". {script}\n{typed}\t\x01echo '= \x05'\nexit\n".encode())
    said, _ = shell.communicate(timeout=20)
    os.close(terminal)
    os.close(line)
    return next(line for line in said.splitlines() if line.startswith("= ")).removeprefix("= ")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("latent-foundry cur", "latent-foundry curate "),
        ("latent-foundry curate --gr", "latent-foundry curate --grow "),
        ("latent-foundry curate --config lai", "latent-foundry curate --config laion "),
        ("latent-foundry train --config min", "latent-foundry train --config mine.yaml "),
        (
            "latent-foundry export run --format web",
            "latent-foundry export run --format webdataset ",
        ),
        ("latent-foundry status a_", "latent-foundry status a_run/"),
        ("latent-foundry completion z", "latent-foundry completion zsh "),
    ],
)
def test_a_tab_in_bash_completes(typed: str, expected: str, scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "a_run").mkdir()
    assert completed(typed, scripts / "bash", tmp_path) == expected


def test_the_scripts_are_whole_for_both_shells_and_name_every_command(scripts: Path) -> None:
    for shell in ("bash", "zsh"):
        text = (scripts / shell).read_text()
        assert all(f"_shtab_latent_foundry_{name}" in text for name in COMMANDS)
        assert "/python" not in text
        if shutil.which(shell):
            subprocess.run([shell, "-n", str(scripts / shell)], check=True)
