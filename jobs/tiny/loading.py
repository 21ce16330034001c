"""The trained tiny models, as objects: for the recipes, the measurement and the tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import nn

from sd_core.model.weights import PRESETS

TINY = PRESETS / "tiny"


@dataclass(frozen=True)
class TinyClip:
    """The CLIP in eval mode and float32, and open_clip's tokenizer of the same folder."""

    model: open_clip.CLIP
    tokenizer: Any


def load_tiny_clip(folder: Path = TINY / "clip") -> TinyClip:
    """Load the CLIP folder through open_clip's "local-dir:" schema."""
    name = f"local-dir:{folder}"
    model, _, _ = open_clip.create_model_and_transforms(name)
    return TinyClip(model.eval(), open_clip.get_tokenizer(name))


def load_tiny_autoencoder(folder: Path = TINY / "autoencoder") -> AutoencoderKL:
    """Load the autoencoder in eval mode and float32."""
    family: Any = AutoencoderKL
    model = family.from_pretrained(folder, torch_dtype=torch.float32)
    loaded: AutoencoderKL = model.eval()
    return loaded


def load_aesthetic_head(path: Path = TINY / "aesthetic.safetensors") -> nn.Linear:
    """Load the linear head: unit embeddings (n, width) to scores (n, 1) of about 0 to 10."""
    state = {name: value.float() for name, value in load_file(path).items()}
    head = nn.Linear(state["weight"].shape[1], 1)
    head.load_state_dict(state)
    return head.eval()
