"""Pictures of many aspects through the real command: each cropped to its bucket, and told so."""

import io
from pathlib import Path

import pytest
from PIL import Image

from jobs import export, train, verify
from pipelines import open_run
from tests.contracts.source_cases import ledger, run_job

pytestmark = pytest.mark.slow

_BUCKETS = "image.buckets={pixels: 16384, step: 32, aspect: 3}"
_SIZES = {"wide": (240, 150), "tall": (100, 210), "square": (128, 128), "small": (60, 40)}
_STORED = {"wide": (160, 96), "tall": (96, 160), "square": (128, 128)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets") / "pictures"
    root.mkdir()
    for number, (name, size) in enumerate(_SIZES.items()):
        image = Image.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 20 + number)
        image.convert("RGB").save(root / f"{name}.png")
    return root


def test_every_picture_is_kept_in_the_bucket_of_its_aspect_or_refused_by_name(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert run_job(pictures, output, _BUCKETS) == 0
    rows = {Path(row["source_file_name"]).stem: row for row in ledger(output)}
    assert rows["small"]["reason"] == "too_small_for_bucket"
    assert "60 x 40 would grow 2.67 times to fill 160 x 96" in rows["small"]["error_message"]
    stored = {name: (row["width"], row["height"]) for name, row in rows.items() if row["kept"]}
    assert stored == _STORED
    images = {
        image.key: Image.open(io.BytesIO(image.content)) for image in open_run(output).images()
    }
    assert {images[rows[name]["key"]].size for name in _STORED} == set(_STORED.values())
    assert verify.main([str(output), "--deep"]) == 0
    assert run_job(pictures, output, _BUCKETS) == 0, "again, with nothing to do"
    assert export.main([str(output), "--to", str(tmp_path / "out"), "--format", "parquet"]) == 0
    capsys.readouterr()
    assert run_job(pictures, output, _BUCKETS.replace("16384", "36864")) == 2
    assert "image.buckets" in capsys.readouterr().err


def test_what_needs_one_size_refuses_buckets_in_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    models = "{autoencoder: {model: /none}, text_encoder: {model: /none}}"
    assert run_job(pictures, output, _BUCKETS, f"encode={models}") == 2
    assert "a latent cache holds one size as yet" in capsys.readouterr().err
    assert not output.exists()
    assert run_job(pictures, output, _BUCKETS) == 0
    told = ["--config", "configs/train/autoencoder_tiny.yaml", "--set", f"data.0.path={output}"]
    assert train.main([*told, "--set", f"output={tmp_path / 'trained'}"]) == 2
    assert "its pictures are of several sizes (image.buckets)" in capsys.readouterr().err
