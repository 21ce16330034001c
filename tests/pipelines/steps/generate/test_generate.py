"""The parts of the generate step: files that other programs read, texts encoded once, memory."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.prompts import PromptPlanConfig, PromptPlanner, PromptsConfig
from pipelines.run.store import RunStore
from pipelines.steps.generate import GenerateConfig, GenerateStep, paint, text_cache
from pipelines.steps.generate.batches import RowBatch, group_rows, settings_of
from pipelines.steps.generate.config import ImageFileConfig
from pipelines.steps.generate.image_files import describe_parameters, encode_image
from pipelines.steps.generate.models import load_generate_models
from pipelines.steps.generate.paint import Painter
from pipelines.steps.generate.rows import ImageRow
from pipelines.steps.generate.text_cache import TextCache
from sd_core.model.latent_diffusion import LatentDiffusionConfig
from tests.contracts.generation_cases import write_prompts
from tests.pretend_gpu import pretend_gpu


def row(number: int, **options: Any) -> ImageRow:
    settings: dict[str, Any] = {
        "row": number,
        "key": f"k{number}-0",
        "prompt_key": f"k{number}",
        "image_index": 0,
        "prompt": f"a red star {number}",
        "negative_prompt": "",
        "seed": 0,
        "noise_seed": 1000 + number,
        "num_inference_steps": 1,
        "guidance_scale": 2.0,
        "width": 64,
        "height": 64,
        "sampler": "ddim",
    }
    return ImageRow(**{**settings, **options})


@pytest.fixture(scope="module")
def config() -> GenerateConfig:
    return GenerateConfig(model=LatentDiffusionConfig(model="preset:tiny/model"), batch_size=4)


@pytest.fixture(scope="module")
def models(config: GenerateConfig) -> Any:
    return load_generate_models(config, device="cpu")


@pytest.mark.parametrize("file_format", ["png", "webp", "jpg"])
def test_parameters_are_where_other_programs_look_for_them(file_format: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    asked = row(1, prompt="un étoile, rouge", negative_prompt="blurry", strength=0.5)
    text = describe_parameters(asked, model="a, b", model_sha256="ab" * 32, version="x 1")
    content = encode_image(pixels, ImageFileConfig(format=file_format), parameters=text)
    assert content == encode_image(pixels, ImageFileConfig(format=file_format), parameters=text)
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (48, 32)
        if file_format == "png":
            found = image.info["parameters"]
            assert np.array_equal(np.asarray(image), pixels)
        else:
            comment = image.getexif().get_ifd(0x8769)[0x9286]
            assert comment.startswith(b"UNICODE\x00")
            found = comment[8:].decode("utf-16-be")
    prompt, negative, settings = found.split("\n")
    assert (prompt, negative) == ("un étoile, rouge", "Negative prompt: blurry")
    pairs = dict(re.findall(r'(\w[\w ]*): ("[^"]*"|[^,]+)', settings))
    assert pairs["Steps"] == "1"
    assert pairs["Sampler"] == "DDIM"
    assert pairs["Seed"] == str(asked.noise_seed)
    assert pairs["Size"] == "64x64"
    assert pairs["Denoising strength"] == "0.5"
    assert pairs["Model"] == '"a, b"'


def test_a_text_is_encoded_once_and_alike_in_any_company(models: Any) -> None:
    cache = TextCache(models.model, batch_size=4)
    texts = ["", "a red star", "", "a blue ring", "a red star"]
    found = cache.encode(texts)
    assert cache.num_encoded == 3
    assert torch.equal(found[1].prompt_embeds, found[4].prompt_embeds)
    cache.encode(["a red star", "", "a green cross"])
    assert cache.num_encoded == 4
    alone = TextCache(models.model, batch_size=4).encode(["a blue ring"])[0]
    assert torch.equal(alone.prompt_embeds, found[3].prompt_embeds)


def test_rows_are_batched_by_what_a_batch_must_share() -> None:
    rows = [
        row(0),
        row(1, guidance_scale=9.0),
        row(2, guidance_scale=1.0),
        row(3, num_inference_steps=2),
        row(4, width=128),
        row(5),
    ]
    batches = list(group_rows(rows, batch_size=2))
    assert [[one.row for one in batch.rows] for batch in batches] == [[0, 1], [5], [2], [3], [4]]
    assert all(len({settings_of(one) for one in batch.rows}) == 1 for batch in batches)


def test_a_batch_too_large_for_the_memory_is_halved_and_stays_so(
    models: Any,
    config: GenerateConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes: list[int] = []
    real = paint.generate_latents

    def small_memory(*arguments: Any, noise: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.append(len(noise))
        if len(noise) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(*arguments, noise=noise, **options)

    monkeypatch.setattr(paint, "generate_latents", small_memory)
    painter = Painter(models, config)
    rows = [row(number) for number in range(4)]
    for _ in range(2):
        batch = RowBatch(settings=settings_of(rows[0]), rows=rows)
        painted = painter.decode(painter.denoise(painter.prepare(batch)))
        assert list(painted.batch_sizes) == [2] * 4
    assert sizes == [4, 2, 2, 2, 2]
    told = "generate: denoising images of 64x64 px: the memory does not hold 4 at once; 2 from here"
    assert capsys.readouterr().out.count(told) == 1
    monkeypatch.undo()
    whole = Painter(models, config.model_copy(update={"batch_size": 2}))
    first = RowBatch(settings=settings_of(rows[0]), rows=rows[:2])
    expected = whole.decode(whole.denoise(whole.prepare(first))).images
    assert torch.equal(painted.images[:2], expected)


def test_a_batch_size_that_is_left_open_is_what_the_memory_holds(
    models: Any, config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small_memory(*arguments: Any, noise: torch.Tensor, **options: Any) -> torch.Tensor:
        if len(noise) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return noise

    monkeypatch.setattr(paint, "generate_latents", small_memory)
    left_open = config.model_copy(update={"batch_size": "auto"})
    with pytest.raises(MemoryError, match="holds 2"):
        paint.try_batch(models, left_open, 4)
    paint.try_batch(models, left_open, 2)
    assert left_open.rows_at_once == 8
    assert config.identity() == GenerateConfig(model=config.model, batch_size=4).identity()
    assert "cuda_graphs" not in config.identity()


@pytest.mark.parametrize("work", ["encoding texts", "decoding"])
def test_texts_and_decoding_are_halved_as_well(
    models: Any, config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    sizes: list[int] = []

    def small_memory(real: Any, rows: Any, batch_size: int) -> Any:
        sizes.append(batch_size)
        if batch_size > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(rows)

    def paint_all() -> Any:
        painter = Painter(models, config)
        rows = [row(number) for number in range(3)]
        batch = RowBatch(settings=settings_of(rows[0]), rows=rows)
        return painter.decode(painter.denoise(painter.prepare(batch)))

    expected = paint_all()
    if work == "decoding":
        decode = paint.decode_scaled
        monkeypatch.setattr(
            paint,
            "decode_scaled",
            lambda model, latents, batch_size: small_memory(
                lambda rows: decode(model, rows, batch_size=batch_size), latents, batch_size
            ),
        )
    else:
        encode = text_cache.token_ids
        monkeypatch.setattr(
            text_cache,
            "token_ids",
            lambda model, texts: small_memory(lambda rows: encode(model, rows), texts, len(texts)),
        )
    painted = paint_all()
    assert sizes == [4, 2, 2]
    assert (painted.images.int() - expected.images.int()).abs().max() <= 1


def test_a_batch_on_a_gpu_is_waited_for_once_and_decoded_at_its_full_size(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    with pretend_gpu() as gpu:
        on_gpu = load_generate_models(config, device="cuda")
        module: Any = on_gpu.model.autoencoder.module
        decode = module.decode

        def noted(latents: torch.Tensor) -> Any:
            sizes.append(len(latents))
            return decode(latents)

        monkeypatch.setattr(module, "decode", noted)
        painter = Painter(on_gpu, config)
        rows = [row(number) for number in range(3)]
        prepared = painter.prepare(RowBatch(settings=settings_of(rows[0]), rows=rows))
        with gpu.watch() as seen:
            denoised = painter.denoise(prepared)
        assert not seen.waits, seen
        with gpu.watch() as seen:
            painted = painter.decode(denoised)
        assert len(seen.waits) == 1, seen
    assert sizes == [4], "three rows, filled up to the batch"
    assert (len(painted.images), painted.is_finite) == (3, [True] * 3)


def test_an_error_that_is_not_of_memory_is_not_swallowed(
    models: Any, config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(paint, "generate_latents", broken)
    painter = Painter(models, config)
    batch = RowBatch(settings=settings_of(row(0)), rows=[row(0), row(1)])
    with pytest.raises(RuntimeError, match="device-side assert"):
        painter.denoise(painter.prepare(batch))


def test_an_image_that_is_not_finite_is_a_row_with_its_reason(
    config: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = paint.generate_latents

    def one_bad(*arguments: Any, **options: Any) -> torch.Tensor:
        latents = real(*arguments, **options).clone()
        latents[1, 0, 0, 0] = float("nan")
        return latents

    monkeypatch.setattr(paint, "generate_latents", one_bad)
    path = write_prompts(tmp_path / "p.parquet", [{"prompt": f"a star {n}"} for n in range(3)])
    store = RunStore(str(tmp_path / "run"))
    growth = PromptPlanner(
        store,
        PromptsConfig(path=str(path)).source(),
        PromptPlanConfig(),
        num_images=1,
        say=lambda line: None,
    ).plan(grow=False)
    one_step = config.defaults.model_copy(update={"num_inference_steps": 1})
    step = GenerateStep(
        store,
        growth.plan,
        fingerprint="f" * 16,
        config=config.model_copy(update={"defaults": one_step}),
        torch_threads=1,
    )
    step.open()
    manifest = step.run(0)
    step.close()
    assert (manifest.kept, dict(manifest.dropped)) == (2, {"image_not_finite": 1})
    facts = pa.parquet.read_table(store.absolute(manifest.file("facts/generate").path))
    assert facts["reason"].to_pylist() == [None, "image_not_finite", None]


def test_a_full_disk_leaves_nothing_published(
    config: GenerateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    path = write_prompts(tmp_path / "p.parquet", [{"prompt": "a star"}])
    store = RunStore(str(tmp_path / "run"))
    growth = PromptPlanner(
        store,
        PromptsConfig(path=str(path)).source(),
        PromptPlanConfig(),
        num_images=1,
        say=lambda line: None,
    ).plan(grow=False)
    step = GenerateStep(store, growth.plan, fingerprint="f" * 16, config=config, torch_threads=1)
    step.open()
    monkeypatch.setattr("pipelines.run.spool.CropSpool.add", full)
    with pytest.raises(OSError, match="No space left"):
        step.run(0)
    step.close()
    assert not list((tmp_path / "run").glob("_work/images/*"))
    assert not list((tmp_path / "run").glob("_work/manifests/generate/*/0*.json"))
