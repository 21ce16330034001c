"""Build transformers' text models: from a diffusers folder or an open_clip text tower."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn

from sd_core.model.clip import ClipConfig, load_clip
from sd_core.model.clip_tokenizer import clip_tokenizer, clip_vocabulary_tokenizer
from sd_core.model.precision import seeded
from sd_core.model.quiet import without_progress_bars
from sd_core.model.settings_check import check_settings
from sd_core.model.single_file import detect_layout, fill_from_single_file
from sd_core.model.single_file_names import clip_source, open_clip_source
from sd_core.model.t5_settings import (
    T5_DECISIONS,
    check_t5_tokenizer_folder,
    check_t5_vocabulary,
)
from sd_core.model.text_encoder_architectures import (
    PLAIN_CLASS,
    PROJECTED_CLASS,
    T5_CLASS,
    TEXT_ENCODER_ARCHITECTURES,
    build_text_model,
    class_name_of_settings,
    is_t5,
)
from sd_core.model.text_encoder_settings import (
    check_text_encoder_settings,
    check_tokenizer_folder,
    check_vocabulary,
)
from sd_core.model.weight_files import settings_in
from sd_core.model.weights import WeightsError, join_reference, resolve_weights

TextPart = Literal["text_encoder", "text_encoder_2", "text_encoder_3"]
TEXT_PARTS: Final[tuple[TextPart, ...]] = get_args(TextPart)
"""The subfolders of a pipeline's text encoders, in order."""
_LEFT_OVER: Final = ("position_ids", "text_projection", "logit_scale")
_LEFT_OVER_ENDS: Final = (*_LEFT_OVER, "text_projection.weight")
_OTHER_HALF: Final = ("vision_model.", "visual_projection.")
_LAYER: Final = re.compile(r"\bencoder\.layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class LoadedTextEncoder:
    """A float32 model on the CPU and its tokenizer."""

    module: nn.Module
    tokenizer: Any


def load_from_folder(
    model: str, *, part: str = "text_encoder", sha256: str | None
) -> LoadedTextEncoder:
    """Load a diffusers folder's `text_encoder` and `tokenizer` (or `..._2`) subfolders."""
    import transformers

    where = f"{part}.model"
    weights = resolve_weights(join_reference(model, part), sha256=sha256, where=where)
    vocabulary = resolve_weights(join_reference(model, tokenizer_folder(part)), where=where)
    # Not typed: transformers' annotations do not know output_loading_info.
    settings = _settings(weights, where=where)
    model_class: Any = getattr(transformers, class_name_of_settings(settings))
    try:
        with without_progress_bars():
            module, report = model_class.from_pretrained(
                weights,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        kind = "T5 encoder" if is_t5(settings) else "CLIP text model"
        raise WeightsError(
            f"{where}: {model} does not load as a {kind} from safetensors: {error}"
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise WeightsError(f"{where}: {weights} lacks {len(missing)} tensors, {missing[0]} for one")
    _refuse_left_over(report["unexpected_keys"], settings, where=f"{where}: {weights}")
    tokenizer = _tokenizer(vocabulary, settings, where=where)
    return LoadedTextEncoder(module=module, tokenizer=tokenizer)


def load_text_encoder_file(
    model: str, *, part: str, layout_folder: str | None, sha256: str | None
) -> LoadedTextEncoder:
    """Load a text encoder out of a single-file checkpoint; the tokenizer is CLIP's own.

    `layout_folder` refers to a diffusers folder that tells sizes and tokenizer instead.
    """
    where = f"{part}.model"
    path = resolve_weights(model, sha256=sha256, where=where)
    layout = detect_layout(path, where=where)
    is_second = part == "text_encoder_2"
    if is_second and layout != "sd-xl":
        raise WeightsError(f"{where}: {path} is of {layout}, which has one text encoder")
    if layout_folder is None:
        settings = text_encoder_settings_of_file(model, part=part, where=where)
        tokenizer = clip_vocabulary_tokenizer(pad_token_id=settings["pad_token_id"])
    else:
        settings, tokenizer = read_layout(layout_folder, part=part, where=where)
    module = build_text_model(settings, seed=None)
    if layout == "sd-v2" or is_second:
        prefix = "conditioner.embedders.1.model." if is_second else "cond_stage_model.model."
        source_of = partial(open_clip_source, prefix=prefix)
    else:
        prefix = "conditioner.embedders.0.transformer." if layout == "sd-xl" else ""
        prefix = prefix or "cond_stage_model.transformer."
        source_of = partial(clip_source, prefix=prefix)
    unused = f"resblocks.{settings['num_hidden_layers']}."  # v2 takes the layer before the last
    fill_from_single_file(
        module,
        path,
        source_of=source_of,
        prefix=prefix,
        may_leave=lambda name: name.endswith(_LEFT_OVER) or unused in name,
        where=where,
    )
    return LoadedTextEncoder(module=module, tokenizer=tokenizer)


def text_encoder_settings_of_file(model: str, *, part: str, where: str) -> dict[str, Any]:
    """What a text encoder of a single-file checkpoint is built of."""
    layout = detect_layout(resolve_weights(model, where=where), where=where)
    return TEXT_ENCODER_ARCHITECTURES[
        "sd-xl-2" if part == "text_encoder_2" else layout.replace("-xl", "-v1")
    ]


def build_random_text_encoder(model: str, *, part: str, seed: int) -> LoadedTextEncoder:
    """Build a named architecture, or that of a diffusers folder, with weights of `seed`."""
    if model in TEXT_ENCODER_ARCHITECTURES:
        settings = TEXT_ENCODER_ARCHITECTURES[model]
        tokenizer = clip_vocabulary_tokenizer(pad_token_id=settings["pad_token_id"])
    else:
        settings, tokenizer = read_layout(model, part=part, where=f"{part}.model")
    return LoadedTextEncoder(module=build_text_model(settings, seed=seed), tokenizer=tokenizer)


def read_layout(folder: str, *, part: str, where: str) -> tuple[dict[str, Any], Any]:
    """The settings and the tokenizer of a diffusers folder's text encoder, without its weights."""
    config_folder = resolve_weights(join_reference(folder, part), where=where)
    vocabulary = resolve_weights(join_reference(folder, tokenizer_folder(part)), where=where)
    settings = _settings(config_folder, where=where)
    return settings, _tokenizer(vocabulary, settings, where=where)


def tokenizer_folder(part: str) -> str:
    """The tokenizer's subfolder beside a text encoder's: `tokenizer` or `tokenizer_2`."""
    return part.replace("text_encoder", "tokenizer")


def _settings(folder: Path, *, where: str) -> dict[str, Any]:
    settings = settings_in(folder, where=where, advice="text encoder")
    name = class_name_of_settings(settings)
    if name not in (PLAIN_CLASS, PROJECTED_CLASS, T5_CLASS):
        raise WeightsError(
            f"{where}: {folder} is a {name}; a text encoder is a {PLAIN_CLASS}, a "
            f"{PROJECTED_CLASS} or a {T5_CLASS}"
        )
    if is_t5(settings):
        check_settings(settings, T5_DECISIONS, where=f"{where}: {folder}/config.json")
    else:
        check_text_encoder_settings(settings, where=f"{where}: {folder}/config.json")
    return settings


def _tokenizer(folder: Path, settings: dict[str, Any], *, where: str) -> Any:
    """The tokenizer in a folder, its files held against the encoder of these settings."""
    import transformers

    if is_t5(settings):
        check_t5_tokenizer_folder(folder, where=where)
    else:
        check_tokenizer_folder(folder, where=where)
    name = "T5TokenizerFast" if is_t5(settings) else "CLIPTokenizer"
    tokenizer_class: Any = getattr(transformers, name)
    try:
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise WeightsError(f"{where}: {folder} does not load as a {name}: {error}") from error
    check = check_t5_vocabulary if is_t5(settings) else check_vocabulary
    check(tokenizer, settings, where=f"{where}: {folder}")
    return tokenizer


def _refuse_left_over(names: Iterable[str], settings: dict[str, Any], *, where: str) -> None:
    """Tensors that the text model does not take: only those of CLIP's other half, and of layers
    behind the last that is taken, may be there."""
    layers = int(settings.get("num_hidden_layers", 12))

    def may_stay(name: str) -> bool:
        layer = _LAYER.search(name)
        is_behind = layer is not None and int(layer[1]) >= layers
        return is_behind or name.startswith(_OTHER_HALF) or name.endswith(_LEFT_OVER_ENDS)

    found = sorted(name for name in names if not may_stay(name))
    if found:
        raise WeightsError(
            f"{where} does not fit its config.json: {len(found)} tensors are unknown, {found[0]} "
            "for one"
        )


def load_from_open_clip(config: ClipConfig) -> LoadedTextEncoder:
    """Convert an open_clip model's text tower; the same ids give the same hidden states."""
    clip = load_clip(config.model_copy(update={"precision": "fp32"}), device="cpu")
    tower: Any = getattr(clip.model, "text", clip.model)
    if not hasattr(tower, "ln_final") or not hasattr(tower, "token_embedding"):
        raise WeightsError(
            f"text_encoder.clip: {config.name}'s text tower is no CLIP transformer; use a model "
            "with one, or a diffusers folder as text_encoder.model"
        )
    tokenizer = clip_tokenizer(clip.tokenizer)
    return LoadedTextEncoder(module=convert_text_tower(tower, tokenizer), tokenizer=tokenizer)


def convert_text_tower(tower: Any, tokenizer: Any) -> nn.Module:
    """Copy an open_clip CLIP text transformer into a transformers `CLIPTextModel`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    blocks = tower.transformer.resblocks
    vocabulary_size, width = tower.token_embedding.weight.shape
    settings = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=width,
        intermediate_size=blocks[0].mlp.c_fc.out_features,
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        max_position_embeddings=len(tower.positional_embedding),
        hidden_act="quick_gelu" if "Quick" in type(blocks[0].mlp.gelu).__name__ else "gelu",
        layer_norm_eps=tower.ln_final.eps,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=width,
    )
    with seeded(0):
        model = CLIPTextModel(settings)
    _load_tower(getattr(model, "text_model", model), tower)
    converted: nn.Module = model
    return converted


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hex sha256 of the vocabulary and special ids, whatever files they came from."""
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _load_tower(model: Any, tower: Any) -> None:
    state: dict[str, Tensor] = {
        "embeddings.token_embedding.weight": tower.token_embedding.weight,
        "embeddings.position_embedding.weight": tower.positional_embedding,
        "final_layer_norm.weight": tower.ln_final.weight,
        "final_layer_norm.bias": tower.ln_final.bias,
    }
    for index, block in enumerate(tower.transformer.resblocks):
        state |= {
            f"encoder.layers.{index}.{name}": tensor for name, tensor in _block_state(block).items()
        }
    model.load_state_dict(state, strict=True)


def _block_state(block: Any) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    modules = {
        "layer_norm1": block.ln_1,
        "layer_norm2": block.ln_2,
        "self_attn.out_proj": block.attn.out_proj,
        "mlp.fc1": block.mlp.c_fc,
        "mlp.fc2": block.mlp.c_proj,
    }
    for name, module in modules.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = module.weight, module.bias
    weights = block.attn.in_proj_weight.chunk(3)
    biases = block.attn.in_proj_bias.chunk(3)
    for name, weight, bias in zip("qkv", weights, biases, strict=True):
        state[f"self_attn.{name}_proj.weight"] = weight
        state[f"self_attn.{name}_proj.bias"] = bias
    return state
