"""Pictures of many aspects through the real command: each cropped to its bucket, and told so."""

import io
from pathlib import Path

import pytest
from PIL import Image

from jobs import export, takedown, train, verify
from pipelines import open_run
from sd_core import open_cache
from tests.contracts import generation_cases as generation
from tests.contracts import training_cases as training
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


def test_a_training_on_many_sizes_is_the_same_in_one_go_and_in_two(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, more = tmp_path / "run", tmp_path / "pictures"
    more.mkdir()
    for number in range(11):
        name = ("wide", "tall", "square")[number % 3]
        with Image.open(pictures / f"{name}.png") as image:
            image.point(lambda value, by=number: min(255, value + by)).save(
                more / f"{number:02d}.png"
            )
    assert run_job(more, run, _BUCKETS, _ENCODE) == 0
    digests = []
    for name, parts in (("whole", (4,)), ("parts", (2, 4))):
        output = tmp_path / name
        for steps in parts:
            changes = {"loop__steps": steps, "optimizer__schedule": "constant"}
            folder = tmp_path / f"{name}-{steps}"
            folder.mkdir()
            told = training.write_config(folder / "config.yaml", run, output, **changes)
            order = ["--set", "order.rows_per_unit=2"]
            assert train.main(["--config", str(told), *order]) == 0
        digests.append(training.weights_digests(output))
    assert digests[0] == digests[1]
    capsys.readouterr()
    wrong = ["--set", "order.rows_per_unit=3", "--set", f"output={tmp_path / 'none'}"]
    assert train.main(["--config", str(told), *wrong]) == 2
    assert "loop.batch_size 8: of caches of several sizes" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_generated_images_of_the_named_sizes_are_a_cache_and_sources_of_further_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [(64, 64), (96, 64), (64, 96), (32, 32)]
    rows = [
        {**row, "key": f"p{at}", "width": sizes[at % 4][0], "height": sizes[at % 4][1]}
        for at, row in enumerate(generation.prompts(8))
    ]
    told = {"generate__latents__sizes": "[[96, 64], [64, 64], [64, 96]]"}
    path, output = generation.write_prompts(tmp_path / "prompts.parquet", rows), tmp_path / "run"
    assert generation.command(path, output, **told) == 0
    assert verify.main([str(output), "--deep"]) == 0
    cache = open_cache(output)
    assert cache.spec.buckets == ((64, 96), (64, 64), (96, 64))
    kept = {row["key"]: row for row in ledger(output) if row["kept"]}
    dropped = {row["reason"] for row in ledger(output) if not row["kept"]}
    assert dropped == {"image_of_another_size"}
    assert cache.num_rows == len(kept) == 6
    assert generation.command(path, output, **told) == 0, "again, with nothing to do"
    shown = {sample.key: sample.raw_latents.shape[1:] for sample in open_run(output).latents()}
    assert shown == {key: (row["height"] // 4, row["width"] // 4) for key, row in kept.items()}
    further = [
        {"prompt": "a circle", "init_key": key, "width": row["width"], "height": row["height"]}
        for key, row in kept.items()
    ]
    path = generation.write_prompts(tmp_path / "further.parquet", further)
    changed = {**told, "generate__init__path": output, "generate__defaults__strength": 0.5}
    assert generation.command(path, tmp_path / "varied", **changed) == 0
    assert all(row["kept"] for row in ledger(tmp_path / "varied"))
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
