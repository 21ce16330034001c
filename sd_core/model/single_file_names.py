"""Where a tensor of diffusers' models is in a checkpoint of the original Stable Diffusion code.

That code numbers a UNet's layers in one row (`model.diffusion_model.input_blocks.4.0`) where
diffusers nests them (`down_blocks.1.resnets.0`); an open_clip text tower keeps query, key and value
in one tensor.
"""

import re
from dataclasses import dataclass
from typing import Final

DENOISER_PREFIX: Final = "model.diffusion_model."
AUTOENCODER_PREFIX: Final = "first_stage_model."

_UNET_ENDS: Final = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET: Final = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_AUTOENCODER_ATTENTION: Final = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_OPEN_CLIP_ENDS: Final = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_LAYER: Final = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@dataclass(frozen=True, kw_only=True)
class TensorSource:
    """A tensor's name in the checkpoint, and which part of it is meant."""

    name: str
    third: int | None = None
    """0, 1 or 2: that third of the first dimension (query, key or value)."""
    is_transposed: bool = False


def denoiser_source(key: str, *, layers_per_block: int, attends: tuple[bool, ...]) -> TensorSource:
    """Of a UNet2DConditionModel's tensor; `attends` says which up block has cross-attention."""
    module, _, leaf = key.rpartition(".")
    if module in _UNET_ENDS:
        return TensorSource(name=f"{DENOISER_PREFIX}{_UNET_ENDS[module]}.{leaf}")
    side, *place = key.split(".")
    if side == "mid_block":
        kind, index, rest = place[0], int(place[1]), ".".join(place[2:])
        number = 2 * index if kind == "resnets" else 1
        return _unet_layer(f"middle_block.{number}", kind, rest)
    block, kind, index, rest = int(place[0]), place[1], int(place[2]), ".".join(place[3:])
    first = block * (layers_per_block + 1)
    if kind == "downsamplers":
        name = f"input_blocks.{1 + first + layers_per_block}.0.op.{leaf}"
        return TensorSource(name=DENOISER_PREFIX + name)
    if kind == "upsamplers":
        slot = 2 if attends[block] else 1
        name = f"output_blocks.{first + layers_per_block}.{slot}.conv.{leaf}"
        return TensorSource(name=DENOISER_PREFIX + name)
    row = f"input_blocks.{1 + first + index}" if side == "down_blocks" else ""
    row = row or f"output_blocks.{first + index}"
    return _unet_layer(f"{row}.{0 if kind == 'resnets' else 1}", kind, rest)


def autoencoder_source(key: str, *, levels: int) -> TensorSource:
    """Of an AutoencoderKL's tensor; its up blocks are numbered the other way round."""
    name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(
        r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name
    )
    name = re.sub(
        r"up_blocks\.(\d+)\.upsamplers\.0",
        lambda m: f"up.{levels - 1 - int(m[1])}.upsample",
        name,
    )
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in _AUTOENCODER_ATTENTION.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    return TensorSource(name=AUTOENCODER_PREFIX + name)


def clip_source(key: str, *, prefix: str) -> TensorSource:
    """Of a CLIPTextModel's tensor, where the checkpoint holds transformers' own model."""
    return TensorSource(name=f"{prefix}text_model.{key.removeprefix('text_model.')}")


def open_clip_source(key: str, *, prefix: str) -> TensorSource:
    """Of a CLIPTextModel's tensor, where the checkpoint holds open_clip's text tower."""
    name = key.removeprefix("text_model.")
    if name in _OPEN_CLIP_ENDS:
        return TensorSource(
            name=prefix + _OPEN_CLIP_ENDS[name], is_transposed=name == "text_projection.weight"
        )
    _, _, layer, *rest = name.split(".")
    module, leaf = ".".join(rest[:-1]), rest[-1]
    block = f"{prefix}transformer.resblocks.{layer}"
    if module in _OPEN_CLIP_LAYER:
        return TensorSource(name=f"{block}.{_OPEN_CLIP_LAYER[module]}.{leaf}")
    third = "qkv".index(module.removeprefix("self_attn.")[0])
    return TensorSource(name=f"{block}.attn.in_proj_{leaf}", third=third)


def _unet_layer(place: str, kind: str, rest: str) -> TensorSource:
    if kind == "resnets":
        module, _, leaf = rest.rpartition(".")
        rest = f"{_UNET_RESNET[module]}.{leaf}"
    return TensorSource(name=f"{DENOISER_PREFIX}{place}.{rest}")
