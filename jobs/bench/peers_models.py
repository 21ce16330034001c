"""Scoring and encoding: our steps on a run's crops beside the loops that their libraries show.

Both sides run the same loaded models, of real sizes and random weights, with all cores. A peer
reads the same crops as files, by a `DataLoader` of two workers that stay.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jobs.bench.crop_case import CropCase, make_crops
from jobs.bench.peer_part import PeerResult, PeersBench, in_turns
from pipelines.steps.encode import EncodeConfig, EncodeStep
from pipelines.steps.model_worker import ModelStep
from pipelines.steps.score import HeadConfig, ScoreConfig, ScoreStep
from pipelines.steps.score.config import ScoreClipConfig
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.buckets import Bucket
from sd_core.model.text_encoder import TextEncoderConfig, tokenize_captions

_SCORED, _SCORED_PX, _SCORE_BATCH = 256, 512, 32
_ENCODED, _ENCODED_PX, _ENCODE_BATCH = 16, 256, 8
_CLIP = "ViT-B-32"


def measure_scoring(bench: PeersBench) -> list[PeerResult]:
    """CLIP B/32 with similarity and V1, beside open_clip's own transform and loop."""
    with _crops(bench, bench.sized(_SCORED, least=_SCORE_BATCH), _SCORED_PX) as (case, folder):
        head = {"weight": torch.randn(1, 512) / 20, "bias": torch.zeros(1)}
        save_file(head, folder / "head.safetensors")
        config = ScoreConfig(
            clip=ScoreClipConfig(name=_CLIP, pretrained=False),
            aesthetic_v1=HeadConfig(weights=str(folder / "head.safetensors")),
            batch_size=_SCORE_BATCH,
        )
        fingerprints = count()

        def step() -> ScoreStep:
            return ScoreStep(
                case.store,
                fingerprint=f"{next(fingerprints):016x}",
                images=case.images,
                config=config,
                torch_threads=os.cpu_count() or 1,
            )

        ours, models = _ours(step, case)
        clip = models.clip
        seconds = in_turns(
            {"ours": ours, "peer": _open_clip_loop(case, clip.model, clip.tokenizer, head)},
            repeats=bench.repeats,
        )
        return [_result("scoring", "open_clip + DataLoader", case, seconds, min_ratio=1.25)]


def measure_encoding(bench: PeersBench) -> list[PeerResult]:
    """Stable Diffusion 1's autoencoder and text encoder, beside diffusers' loop that saves `.npy`
    files."""
    with _crops(bench, bench.sized(_ENCODED, least=2), _ENCODED_PX) as (case, folder):
        config = EncodeConfig(
            autoencoder=AutoencoderConfig(model="sd-v1", pretrained=False),
            text_encoder=TextEncoderConfig(model="sd-v1", pretrained=False),
            batch_size=_ENCODE_BATCH,
        )
        fingerprints = count()

        def step() -> EncodeStep:
            return EncodeStep(
                case.store,
                fingerprint=f"{next(fingerprints):016x}",
                images=case.images,
                verdicts=case.verdicts,
                num_image_shards=1,
                config=config,
                sizes=(Bucket(width=case.side, height=case.side),),
                torch_threads=os.cpu_count() or 1,
            )

        ours, models = _ours(step, case)
        seconds = in_turns(
            {"ours": ours, "peer": _diffusers_loop(case, models, folder)}, repeats=bench.repeats
        )
        return [_result("encoding", "diffusers + DataLoader", case, seconds, min_ratio=1.0)]


@contextmanager
def _crops(bench: PeersBench, num_images: int, side: int) -> Iterator[tuple[CropCase, Path]]:
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as name:
        folder = Path(name)
        yield (
            make_crops(
                folder,
                photos=bench.photos,
                metadata=bench.metadata,
                num_images=num_images,
                side=side,
            ),
            folder,
        )


def _ours(step: Callable[[], ModelStep], case: CropCase) -> tuple[Callable[[], object], Any]:
    """The step on the shard, committed anew each time, its models loaded once."""
    opened: Any = step()
    opened.open()

    def run() -> None:
        again: Any = step()  # another fingerprint, so that it commits
        again._models, again.batch_size = opened._models, opened.batch_size
        if hasattr(opened, "_spec"):
            again._spec = opened._spec
        manifest = again.run(0)
        assert manifest.kept == len(case.files), "a row was refused"

    return run, opened._models


class _Crops(Dataset[tuple[Tensor, Tensor]]):
    """Files and captions, as such loops read them."""

    def __init__(
        self, case: CropCase, transform: Callable[[Any], Tensor], tokens: Callable[[str], Tensor]
    ) -> None:
        self._case, self._transform, self._tokens = case, transform, tokens

    def __len__(self) -> int:
        return len(self._case.files)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        with Image.open(self._case.files[at]) as image:
            pixels = self._transform(image)
        return pixels, self._tokens(self._case.captions[at])


def _loader(crops: _Crops, batch_size: int) -> "DataLoader[tuple[Tensor, Tensor]]":
    return DataLoader(crops, batch_size=batch_size, num_workers=2, persistent_workers=True)


def _open_clip_loop(
    case: CropCase, model: Any, tokenizer: Any, head: dict[str, Tensor]
) -> Callable[[], object]:
    import open_clip

    transform = open_clip.image_transform(model.visual.image_size, is_train=False)
    loader = _loader(_Crops(case, transform, lambda text: tokenizer([text])[0]), _SCORE_BATCH)

    def run() -> list[tuple[Tensor, Tensor]]:
        found = []
        with torch.inference_mode():
            for images, texts in loader:
                pictures = model.encode_image(images, normalize=True)
                words = model.encode_text(texts, normalize=True)
                scores = torch.nn.functional.linear(pictures, head["weight"], head["bias"])
                found.append(((pictures * words).sum(dim=-1), scores))
        return found

    return run


def _diffusers_loop(case: CropCase, models: Any, folder: Path) -> Callable[[], object]:
    from torchvision.transforms.functional import to_tensor

    encoder = models.text_encoder
    crops = _Crops(
        case,
        lambda image: to_tensor(image) * 2 - 1,
        lambda text: tokenize_captions(encoder, [text])[0],
    )
    loader = _loader(crops, _ENCODE_BATCH)

    def run() -> None:
        numbers = count()
        with torch.inference_mode():
            for images, ids in loader:
                latents = models.autoencoder.module.encode(images).latent_dist.parameters
                texts = encoder.module(ids.long()).last_hidden_state
                for latent, text in zip(latents.half(), texts.half(), strict=True):
                    name = folder / f"{next(numbers):06d}"
                    np.save(f"{name}.latent.npy", latent.numpy())
                    np.save(f"{name}.text.npy", text.numpy())

    return run


def _result(
    part: str, peer: str, case: CropCase, seconds: dict[str, float], *, min_ratio: float
) -> PeerResult:
    return PeerResult(
        part=part,
        peer=peer,
        unit="images",
        amount=len(case.files),
        our_seconds=seconds["ours"],
        peer_seconds=seconds["peer"],
        min_ratio=min_ratio,
    )
