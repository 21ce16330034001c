"""Crops on disk, and folders that do not outlive their process."""

import subprocess
import sys

import pytest

from pipelines.run.spool import CropSpool
from pipelines.run.spool_folder import remove_abandoned, spool_folder

_HOLD = """
import sys
from pathlib import Path
from pipelines.run.spool_folder import spool_folder
with spool_folder(sys.argv[1]) as folder:
    (folder / "crops").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_crops_come_back_by_row_whatever_the_order(tmp_path):
    spool = CropSpool(tmp_path / "crops")
    for row in (5, 0, 3):
        spool.add(row, bytes([row]) * (row + 1))
    assert [spool.read(row) for row in (0, 3, 5)] == [b"\0", b"\3" * 4, b"\5" * 6]
    assert 1 not in spool
    assert len(spool) == 3
    spool.close()


def test_second_crop_of_a_row_is_an_error(tmp_path):
    spool = CropSpool(tmp_path / "crops")
    spool.add(0, b"x")
    with pytest.raises(ValueError, match="row 0"):
        spool.add(0, b"y")
    spool.close()


def test_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder, spool_folder(str(tmp_path)) as own:
        folder = holder.stdout.readline().strip()
        assert remove_abandoned(str(tmp_path)) == []
        holder.kill()
        holder.wait()
        assert [str(path) for path in remove_abandoned(str(tmp_path))] == [folder]
        assert own.exists()
    assert list(tmp_path.iterdir()) == []
