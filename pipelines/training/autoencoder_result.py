"""What a finished training of an autoencoder leaves: a diffusers folder, and result.json last."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pipelines.run.store import RunStore
from pipelines.training.autoencoder_config import AutoencoderTrainConfig
from pipelines.training.image_set import ImageSet, read_first
from pipelines.training.model_card import write_model_card
from pipelines.training.result import image_set_sha256, publish_folder
from sd_core.redact import redact_url
from sd_core.training.image_batches import as_input
from sd_core.training.trained_autoencoder import TrainedAutoencoder

_DIGITS = 5


def publish_autoencoder(
    store: RunStore,
    config: AutoencoderTrainConfig,
    autoencoder: TrainedAutoencoder,
    image_sets: Sequence[ImageSet],
    *,
    step: int,
    values: Mapping[str, float],
    fingerprint: str,
) -> None:
    """Store the autoencoder with its scaling factor and card, then result.json.

    Args:
        autoencoder: The averaged weights, in eval mode; its configuration is changed.
        image_sets: What it was trained on.
        values: Its figures on held-out images, for the card and the result.
    """
    images = as_input(read_first(image_sets[0], config.scaling_images))
    factor = measure_scaling_factor(autoencoder, images, batch_size=config.loop.batch_size)
    figures = {"scaling_factor": factor, **values}
    data = _describe_data(config, image_sets)
    module = autoencoder.autoencoder
    module.register_to_config(scaling_factor=factor, _name_or_path="")
    with tempfile.TemporaryDirectory(prefix="model-") as scratch:
        folder = Path(scratch)
        module.save_pretrained(folder, safe_serialization=True)
        card = write_model_card(config, data=data, steps=step, folder=folder, figures=figures)
        (folder / "README.md").write_text(card, encoding="utf-8")
        result = {"step": step, "fingerprint": fingerprint, "data": data, **figures}
        publish_folder(store, folder, result)


@torch.inference_mode()
def measure_scaling_factor(
    autoencoder: TrainedAutoencoder, images: torch.Tensor, *, batch_size: int
) -> float:
    """1 / standard deviation of the latents of (B, 3, H, W) images, drawn from their posteriors.

    The deviation is of means and posterior noise together, so no noise is drawn.

    Source: Rombach et al. 2022, arXiv:2112.10752, appendix G.
    """
    device = next(autoencoder.parameters()).device
    count, total, squares = 0, 0.0, 0.0
    for part in torch.split(images, batch_size):
        found = autoencoder.encode(part.to(device), None)
        latents = found.latents
        if latents is None:
            raise TypeError("an autoencoder gives latents")
        values = latents.double()
        count += values.numel()
        total += float(values.sum())
        squares += float(values.square().sum())
        if found.log_variance is not None:
            squares += float(found.log_variance.double().exp().sum())
    variance = squares / count - (total / count) ** 2
    return float(round(variance**-0.5, _DIGITS))


def _describe_data(
    config: AutoencoderTrainConfig, image_sets: Sequence[ImageSet]
) -> list[Mapping[str, object]]:
    total = sum(data.weight for data in config.data)
    return [
        {
            "path": redact_url(data.path),
            "rows": images.num_rows,
            "share": data.weight / total,
            "sha256": image_set_sha256(images),
        }
        for data, images in zip(config.data, image_sets, strict=True)
    ]
