"""Pictures of many aspects through the real command: each cropped to its bucket, and told so."""

import io
from pathlib import Path

import pytest
from PIL import Image

from jobs import export, takedown, train, verify
from pipelines import open_run
from sd_core import open_cache
from tests.contracts.source_cases import ledger, run_job

pytestmark = pytest.mark.slow

_BUCKETS = "image.buckets={pixels: 16384, step: 32, aspect: 3}"
_ENCODE = (
    "encode={autoencoder: {model: 'preset:tiny/autoencoder'},"
    " text_encoder: {clip: {name: 'preset:tiny/clip'}}}"
)
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


def test_a_cache_of_many_sizes_holds_every_kept_row_in_its_shape(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert run_job(pictures, output, _BUCKETS, _ENCODE) == 0
    assert verify.main([str(output), "--deep"]) == 0
    cache = open_cache(output)
    assert (cache.num_rows, cache.spec.schema_version) == (3, 2)
    rows = {row["key"]: row for row in ledger(output)}
    for sample in open_run(output).latents():
        row = rows[sample.key]
        assert sample.raw_latents.shape[1:] == (row["height"] // 4, row["width"] // 4)
    by_bucket = [sum(rows) for rows in zip(*(s.bucket_rows for s in cache.shards), strict=True)]
    assert dict(zip(cache.spec.buckets, by_bucket, strict=True)) == {
        size: int(size in _STORED.values()) for size in cache.spec.buckets
    }
    wide = next(row for row in rows.values() if (row["width"], row["height"]) == (160, 96))
    (tmp_path / "gone.txt").write_text(wide["key"])
    assert takedown.main([str(output), "--keys", str(tmp_path / "gone.txt")]) == 0
    assert verify.main([str(output), "--deep"]) == 0
    assert open_cache(output).num_rows == 2
    assert wide["key"] not in {sample.key for sample in open_run(output).latents()}
    assert "Traceback" not in capsys.readouterr().err


def test_what_needs_one_size_refuses_buckets_in_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    odd = "image.buckets={sizes: [[90, 120]], step: 30}"
    assert run_job(pictures, output, odd, _ENCODE) == 2
    assert "image.buckets: 90 has no latent of a whole size" in capsys.readouterr().err
    assert not output.exists()
    assert run_job(pictures, output, _BUCKETS) == 0
    told = ["--config", "configs/train/autoencoder_tiny.yaml", "--set", f"data.0.path={output}"]
    assert train.main([*told, "--set", f"output={tmp_path / 'trained'}"]) == 2
    assert "its pictures are of several sizes (image.buckets)" in capsys.readouterr().err
