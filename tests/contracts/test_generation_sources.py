"""Rows that start from a curated image: strength 0 is that image, inpainting leaves the rest."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.verify import main as verify
from sd_core.cache.latent_cache import open_cache
from sd_core.cache.latents import posterior_mean, scale_latents
from sd_core.cache.reading import open_shard_reader
from sd_core.model.latent_diffusion import LatentDiffusionConfig, load_latent_diffusion
from sd_core.sampling.text_to_image import decode_images
from tests.contracts import generation_cases as cases

pytestmark = pytest.mark.slow


def decoded_sources(run: Path, count: int) -> dict[str, np.ndarray]:
    """The first cached images of a run, decoded with the tiny model: key to (H, W, 3) uint8."""
    cache = open_cache(str(run / "latents"))
    model = load_latent_diffusion(LatentDiffusionConfig(model="preset:tiny/model"), device="cpu")
    reader = open_shard_reader(cache, cache.shards[0])
    found = {}
    for row in range(count):
        sample = reader.read(row)
        raw = posterior_mean(torch.from_numpy(np.asarray(sample.raw_latents, np.float32)))
        found[sample.key] = decode_images(model, scale_latents(raw, cache.spec)[None])[0].numpy()
    reader.close()
    return found


def test_image_to_image_variations_and_inpainting(unharmed_run: Path, tmp_path: Path) -> None:
    sources = decoded_sources(unharmed_run, 3)
    first, second, third = sources
    (tmp_path / "masks").mkdir()
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    Image.fromarray(half).save(tmp_path / "masks/half.png")
    text = "a large red circle in the center on a white background"
    rows = [
        {"prompt": text, "key": "same", "init_key": first, "strength": 0.0},
        {"prompt": text, "key": "near", "init_key": first, "strength": 0.5},
        {"prompt": None, "key": "variation", "init_key": second, "strength": 0.5},
        {"prompt": text, "key": "box", "init_key": first, "mask": "[16, 16, 48, 48]"},
        {"prompt": text, "key": "file", "init_key": third, "mask": "half.png"},
        {"prompt": text, "key": "gone", "init_key": "f" * 16},
        {"prompt": text, "key": "wide", "init_key": first, "width": 128},
        {"prompt": text, "key": "askew", "init_key": first, "mask": "[1, 2, 3]"},
        {"prompt": text, "key": "outside", "init_key": first, "mask": "../masks/half.png"},
    ]
    path = cases.write_prompts(tmp_path / "prompts.parquet", rows)
    init = f"{{path: {unharmed_run}, masks: {tmp_path / 'masks'}}}"
    options = {"generate__defaults__num_inference_steps": 6}
    cases.run(cases.configuration(path, tmp_path / "run", generate__init=init, **options))
    ledger = cases.table(tmp_path / "run", "ledger")
    reasons = dict(zip(ledger["prompt_key"].to_pylist(), ledger["reason"].to_pylist(), strict=True))
    assert [reasons[key] for key in ("gone", "wide", "askew", "outside")] == [
        "init_missing",
        "size_invalid",
        "mask_invalid",
        "mask_invalid",
    ]
    images = {k: cases.pixels(v) for k, v in cases.image_files(tmp_path / "run").items()}
    assert np.array_equal(images["same-0"], sources[first])
    assert 0 < np.abs(images["near-0"] - sources[first]).mean() < 100
    box = np.zeros((64, 64), bool)
    box[16:48, 16:48] = True
    for key, source, mask in (("box-0", first, box), ("file-0", third, half > 0)):
        assert np.array_equal(images[key][~mask], sources[source][~mask]), key
        assert np.abs(images[key][mask] - sources[source][mask]).mean() > 1, key
    captions = dict(
        zip(ledger["prompt_key"].to_pylist(), ledger["caption"].to_pylist(), strict=True)
    )
    assert captions["variation"].strip()
    assert verify([str(tmp_path / "run"), "--deep"]) == 0
