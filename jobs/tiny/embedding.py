"""Unit embeddings of the tiny CLIP."""

import numpy as np
import numpy.typing as npt
import open_clip
import torch

from jobs.tiny.deliveries import normalized


def embed_images(model: open_clip.CLIP, images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (n, 64, 64, 3) to unit embeddings float32 (n, 128)."""
    with torch.inference_mode():
        batches = [
            model.encode_image(normalized(images[start : start + 256]), normalize=True)
            for start in range(0, len(images), 256)
        ]
    return torch.cat(batches).float()


def embed_texts(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Token ids int64 (n, 32) to unit embeddings float32 (n, 128)."""
    with torch.inference_mode():
        embeddings: torch.Tensor = model.encode_text(tokens, normalize=True)
    return embeddings.float()
