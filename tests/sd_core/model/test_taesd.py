"""TAESD's published weights on real photographs at 512 px."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sd_core.model.autoencoder import decode_latents, encode_images, load_autoencoder
from sd_core.model.autoencoder_config import AutoencoderConfig

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_latents_in_float16_decode_to_the_photographs(shared_data: Path) -> None:
    config = AutoencoderConfig(model=str(shared_data / "autoencoders" / "taesd"), kind="taesd")
    autoencoder = load_autoencoder(config, device="cpu")
    assert (autoencoder.scaling_factor, autoencoder.shift_factor) == (1.0, 0.0)
    paths = sorted((shared_data / "photos" / "coco_mini").glob("*.jpg"))[:4]
    ratios = []
    for path in paths:
        photograph = Image.open(path).convert("RGB")
        side = min(photograph.size)
        crop = photograph.crop((0, 0, side, side)).resize((512, 512))
        image = torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        raw_latents = encode_images(autoencoder, image, form="mean")
        assert raw_latents.shape == (1, 4, 64, 64)
        decoded = decode_latents(autoencoder, raw_latents.half().float())
        ratios.append(10 * torch.log10(4 / (decoded - image).square().mean()))
    assert torch.stack(ratios).mean() > 24
