"""What we make of the stored crops agrees with open_clip on the original photographs."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import simplejpeg
import torch
from PIL import Image

from pipelines.steps.download.decode import decode_to_crop
from pipelines.steps.download.image_config import ImageConfig
from sd_core.model.clip import Clip, ClipConfig, load_clip
from sd_core.model.resample import OriginalSize, crop_grid, resample_crops


def test_crops_are_resampled_on_open_clips_grid() -> None:
    # int(32 * 398 / 256) is 49 rows and (49 - 32) / 2 is rounded: the square is half a row off.
    height, width = 398, 256
    coarse = torch.rand(1, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    picture = (smooth.clamp(0, 1) * 255).byte()
    theirs = open_clip.image_transform(32, is_train=False, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    expected = theirs(Image.fromarray(picture[0].permute(1, 2, 0).numpy()))
    top = (height - width) // 2
    crop = picture[:, :, top : top + width]
    grid = crop_grid([OriginalSize(width, height)], side=width, size=32)
    found = resample_crops(crop, grid)
    plain = torch.nn.functional.interpolate(crop, (32, 32), mode="bicubic", antialias=True)
    inner = slice(2, -2)  # at the edge the crop has no more to give
    ours = (found[0] - expected)[:, inner].abs().mean()
    assert ours < 1
    assert (plain[0] - expected)[:, inner].abs().mean() > 5 * ours


@pytest.mark.slow
@pytest.mark.long
def test_embeddings_of_stored_crops_are_those_of_the_originals(shared_data: Path) -> None:
    paths = sorted((shared_data / "photos" / "coco_mini").glob("*.jpg"))
    assert len(paths) == 159
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        clip = load_clip(ClipConfig(name="ViT-B-32", pretrained=False), device="cpu")
        ours = torch.cat([_stored(clip, paths[at : at + 8]) for at in range(0, 159, 8)])
        theirs = torch.cat([_original(clip, paths[at : at + 8]) for at in range(0, 159, 8)])
    finally:
        torch.set_num_threads(before)
    cosine = (ours * theirs).sum(dim=-1)
    assert cosine.mean() >= 0.9995
    assert cosine.min() >= 0.998
    # Random weights or not, they tell photographs apart: another one is far off.
    others = ours @ theirs.T
    assert others.fill_diagonal_(0).sum() / (159 * 158) < 0.8


def _stored(clip: Clip, paths: list[Path]) -> torch.Tensor:
    crops = [decode_to_crop(path.read_bytes(), ImageConfig()) for path in paths]
    pixels = np.stack([simplejpeg.decode_jpeg(crop.image, "RGB") for crop in crops])
    originals = [OriginalSize(crop.original_width, crop.original_height) for crop in crops]
    return clip.encode_images(torch.from_numpy(pixels).permute(0, 3, 1, 2), originals=originals)


@torch.inference_mode()
def _original(clip: Clip, paths: list[Path]) -> torch.Tensor:
    preprocess = open_clip.image_transform(
        clip.image_size, is_train=False, mean=clip.mean, std=clip.std
    )
    images = torch.stack([preprocess(Image.open(path)) for path in paths])
    return clip.model.encode_image(images, normalize=True)
