"""Tiny models with random weights, as folders of the real formats."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 514,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "hf_tokenizer_name": "in this folder",
    },
}


def clip_folder(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """An open_clip folder (`local-dir:`) whose tokenizer knows single characters."""
    import open_clip
    from open_clip.tokenizer import bytes_to_unicode
    from transformers import CLIPTokenizer

    settings = {**CLIP, **changes}
    torch.manual_seed(seed)
    parts = {name: value for name, value in settings.items() if name != "custom_text"}
    model_class = open_clip.CustomTextCLIP if settings.get("custom_text") else open_clip.CLIP
    model = model_class(**parts)
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": settings, "preprocess_cfg": {}})
    )
    characters = list(bytes_to_unicode().values())
    tokens = [*characters, *(f"{character}</w>" for character in characters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def autoencoder_folder(folder: Path, *, kind: str = "kl", seed: int = 0, **changes: Any) -> Path:
    """A diffusers folder of a 4-channel autoencoder that halves the sides once."""
    import diffusers

    channels = {"block_out_channels": (8, 8), "latent_channels": 4}
    levels = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
    }
    torch.manual_seed(seed)
    if kind == "kl":
        model = diffusers.AutoencoderKL(**{**channels, **levels, **changes})
    elif kind == "vq":
        model = diffusers.VQModel(**{**channels, **levels, "num_vq_embeddings": 16, **changes})
    else:
        model = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            **changes,
        )
    model.save_pretrained(folder)
    return folder


def aesthetic_head(path: Path, *, embed_dim: int = 16, seed: int = 0) -> Path:
    """A linear head as safetensors."""
    torch.manual_seed(seed)
    save_file({"weight": torch.randn(1, embed_dim), "bias": torch.randn(1)}, path)
    return path


def shift_tensors(folder: Path, *, past: int) -> None:
    """Rewrite every safetensors file of a folder so that its tensors begin `past` a multiple."""
    for path in sorted(folder.rglob("*.safetensors")):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.dumps(json.loads(content[8 : 8 + length])).encode()
        padding = (past - 8 - len(header)) % 64
        header += b" " * padding
        assert (8 + len(header)) % 64 == past
        path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
