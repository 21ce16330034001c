"""CLIP: configuration traps, preprocessing, embeddings."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from sd_core.model.clip import Clip, ClipConfig, load_clip, quiet_open_clip
from sd_core.model.weights import WeightsError
from tests import model_cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_cases.clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return load_clip(ClipConfig(name=str(folder)), device="cpu")


@pytest.mark.parametrize(
    ("name", "tag", "right"),
    [
        ("ViT-L-14", "openai", "ViT-L-14-quickgelu"),
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32", "metaclip_fullcc", "ViT-B-32-quickgelu"),
    ],
)
def test_a_quickgelu_tag_under_a_plain_name_is_refused(name: str, tag: str, right: str) -> None:
    with pytest.raises(ValidationError, match=f"trained with QuickGELU .* name it {right}"):
        ClipConfig(name=name, pretrained=tag)
    assert ClipConfig(name=right, pretrained=tag).name == right


def test_a_plain_tag_under_a_quickgelu_name_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"no tag 'laion2b_s34b_b79k' .*\(ViT-B-32 has it\)"):
        ClipConfig(name="ViT-B-32-quickgelu", pretrained="laion2b_s34b_b79k")


def test_the_trap_is_refused_for_a_local_checkpoint_too(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="name it ViT-L-14-quickgelu"):
        ClipConfig(name="ViT-L-14", pretrained="openai", checkpoint=str(tmp_path / "L-14.pt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "ViT-X"}, "pretrained must be set"),
        ({"name": "ViT-X", "pretrained": False}, "open_clip has no model 'ViT-X'"),
        ({"name": "ViT-B-32", "pretrained": "opanai"}, "no tag 'opanai' for ViT-B-32; it has: "),
        ({"name": "preset:tiny/clip", "pretrained": False}, "folder with its own weights"),
        ({"name": "ViT-B-32", "pretrained": False, "checkpoint": "/x"}, "a checkpoint is named"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClipConfig.model_validate(options)


def test_the_needed_weights_name_the_key_to_set() -> None:
    config = ClipConfig(name="ViT-L-14-quickgelu", pretrained="openai")
    (need,) = config.weight_needs("score.clip")
    assert need.where == "score.clip.checkpoint"
    assert need.ref == "open_clip:ViT-L-14-quickgelu/openai"
    assert ClipConfig(name="ViT-B-32", pretrained=False).weight_needs("score.clip") == []


def test_identity_follows_the_hash_where_there_is_one() -> None:
    here = ClipConfig(name="/a/clip", sha256="0" * 64)
    there = ClipConfig(name="/b/clip", sha256="0" * 64)
    assert here.identity() == there.identity()
    assert ClipConfig(name="/a/clip").identity() != ClipConfig(name="/b/clip").identity()


def test_random_weights_repeat_and_say_so(folder: Path, clip: Clip) -> None:
    again = load_clip(ClipConfig(name=str(folder)), device="cpu")
    assert again.weights_sha256 == clip.weights_sha256
    assert (
        "RANDOM weights of seed 3"
        in ClipConfig(name="ViT-B-32", pretrained=False, seed=3).describe()
    )


def test_loading_leaves_the_random_state_and_the_root_logger_alone(folder: Path) -> None:
    import logging

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    handlers = list(logging.getLogger().handlers)
    load_clip(ClipConfig(name=str(folder)), device="cpu")
    assert torch.rand(1) == expected
    assert logging.getLogger().handlers == handlers


def test_embeddings_are_open_clips_own(folder: Path, clip: Clip) -> None:
    with quiet_open_clip():
        model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    generator = np.random.default_rng(0)
    pictures = _smooth_pictures(generator, 4, size=96)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    with torch.inference_mode():
        theirs = torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])
        expected = model.encode_image(theirs, normalize=True)
        captions = model.encode_text(tokenizer(["a red circle", ""]), normalize=True)
    assert (clip.preprocess(images) - theirs).abs().max() < 0.03  # two of 255 grey levels
    cosine = (clip.encode_images(images) * expected).sum(dim=-1)
    assert cosine.min() > 0.9999
    torch.testing.assert_close(clip.encode_captions(["a red circle", ""]), captions)


def test_only_one_size_up_or_down_and_the_crop_is_central(clip: Clip) -> None:
    image = torch.zeros(1, 3, 64, 128, dtype=torch.uint8)
    image[..., 32:96] = 255  # the central square is white
    pixels = clip.preprocess(image)
    assert pixels.shape == (1, 3, 32, 32)
    white = (1 - torch.tensor(clip.mean)) / torch.tensor(clip.std)
    torch.testing.assert_close(pixels[0, :, :, 2:-2], white.view(3, 1, 1).expand(3, 32, 28))


def test_bf16_embeddings_point_the_same_way(folder: Path, clip: Clip) -> None:
    low = load_clip(ClipConfig(name=str(folder), precision="bf16"), device="cpu")
    assert low.dtype == torch.bfloat16
    assert low.weights_sha256 == clip.weights_sha256
    images = torch.from_numpy(_smooth_pictures(np.random.default_rng(1), 4, size=64))
    images = images.permute(0, 3, 1, 2)
    cosine = (clip.encode_images(images) * low.encode_images(images)).sum(dim=-1)
    assert low.encode_images(images).dtype == torch.float32
    assert cosine.min() > 0.999


def test_a_folder_without_safetensors_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(
        (folder / "open_clip_config.json").read_bytes()
    )
    with pytest.raises(WeightsError, match=r"holds no \.safetensors file"):
        load_clip(ClipConfig(name=str(tmp_path)), device="cpu")


def test_a_checkpoint_of_another_model_is_one_error(folder: Path) -> None:
    config = ClipConfig(name="ViT-S-32", checkpoint=str(folder / "open_clip_model.safetensors"))
    with pytest.raises(WeightsError, match="ViT-S-32: open_clip cannot load it"):
        load_clip(config, device="cpu")


def _smooth_pictures(generator: np.random.Generator, count: int, *, size: int) -> np.ndarray:
    coarse = torch.from_numpy(generator.random((count, 3, 6, 6), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().byte().permute(0, 2, 3, 1).numpy()
