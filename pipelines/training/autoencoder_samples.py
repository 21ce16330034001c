"""How an autoencoder reconstructs held-out images: a grid, and the PSNR."""

import copy
import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipelines.training.loop import Shown
from sd_core.sampling.picture_grid import Cell, picture_grid
from sd_core.training.autoencoder_losses import psnr_db
from sd_core.training.image_batches import as_input
from sd_core.training.trained_autoencoder import TrainedAutoencoder

PSNR = "held_out_psnr_db"
_COLUMNS = 8
_CELL_PX = 128


def with_weights(
    autoencoder: TrainedAutoencoder, weights: Mapping[str, Tensor]
) -> TrainedAutoencoder:
    """A frozen copy with other weights; the training's own is left alone."""
    frozen = copy.deepcopy(autoencoder).eval().requires_grad_(False)
    frozen.load_state_dict(dict(weights), strict=False)
    return nn.Module.to(frozen, memory_format=torch.contiguous_format)


@torch.inference_mode()
def show_reconstructions(
    autoencoder: TrainedAutoencoder,
    originals: npt.NDArray[np.uint8],
    *,
    shown: int,
    batch_size: int,
) -> Shown:
    """Reconstruct from the posterior's mean, or the nearest codes.

    Args:
        autoencoder: In eval mode.
        originals: (N, H, W, 3) uint8.
        shown: How many of them go into the grid.
        batch_size: Images at a time.

    Returns:
        Originals over their reconstructions, and the mean PSNR.
    """
    device = next(autoencoder.parameters()).device
    found, ratios = [], []
    for images in torch.split(as_input(originals), batch_size):
        reconstructions = autoencoder(images.to(device)).images.float().clamp(-1, 1).cpu()
        ratios.append(psnr_db(reconstructions, images))
        found.append(((reconstructions + 1) * 127.5).round().to(torch.uint8))
    drawn = torch.cat(found).permute(0, 2, 3, 1).numpy()
    image = draw_pairs(originals[:shown], drawn[:shown])
    return Shown(image=image, values={PSNR: float(torch.cat(ratios).mean())})


def draw_pairs(originals: npt.NDArray[np.uint8], reconstructions: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of (N, H, W, 3) uint8 originals, each over its reconstruction, at least 128 px wide."""
    pairs = zip(originals, reconstructions, strict=True)
    cells = [Cell(np.concatenate(pair)) for pair in pairs]
    width = originals.shape[2]
    side = width * -(-_CELL_PX // width)  # a whole multiple
    stream = io.BytesIO()
    picture_grid(cells, columns=min(_COLUMNS, len(cells)), side=side).save(stream, "PNG")
    return stream.getvalue()
