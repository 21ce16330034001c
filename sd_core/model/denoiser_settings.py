"""Which keys of a denoiser's `config.json` are honoured; see `settings_check`."""

from collections.abc import Mapping
from typing import Any, Final

from sd_core.model.settings_check import Decisions, Limited, SettingsError, check_settings

_IMAGE_CHANNELS: Final = 3
"""Beside the latents, of an upscaler."""

UNET_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            # What the module is built of; it needs no more input than it is given.
            "center_input_sample",
            "flip_sin_to_cos",
            "freq_shift",
            "down_block_types",
            "mid_block_type",
            "up_block_types",
            "only_cross_attention",
            "block_out_channels",
            "layers_per_block",
            "downsample_padding",
            "mid_block_scale_factor",
            "dropout",
            "act_fn",
            "norm_num_groups",
            "norm_eps",
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
            "attention_head_dim",
            "num_attention_heads",
            "use_linear_projection",
            "upcast_attention",
            "resnet_time_scale_shift",
            "resnet_skip_time_act",
            "resnet_out_scale_factor",
            "time_embedding_dim",
            "time_embedding_act_fn",
            "timestep_post_act",
            "conv_in_kernel",
            "conv_out_kernel",
            "mid_block_only_cross_attention",
            "cross_attention_norm",
            # What the model as a whole is held against when it is loaded.
            "sample_size",
            "in_channels",
            "out_channels",
            "cross_attention_dim",
            # XL's, with `addition_embed_type` "text_time".
            "addition_time_embed_dim",
            "projection_class_embeddings_input_dim",
            # The scale of guidance as an input.
            "time_cond_proj_dim",
            # An upscaler's level of noise; refused of any other model.
            "num_class_embeds",
        }
    ),
    harmless={
        "addition_embed_type_num_heads": 'only of addition_embed_type "text", which is refused',
    },
    limited={
        "addition_embed_type": Limited(
            allowed=(None, "text_time"), why="images or text as a further input are not given"
        ),
        "encoder_hid_dim": Limited(allowed=(None,), why="the text is given as it is encoded"),
        "encoder_hid_dim_type": Limited(allowed=(None,), why="the text is given as it is encoded"),
        "class_embed_type": Limited(allowed=(None,), why="no class embeddings are given"),
        "class_embeddings_concat": Limited(allowed=(False,), why="no class embeddings are given"),
        "dual_cross_attention": Limited(allowed=(False,), why="diffusers has given it up"),
        "time_embedding_type": Limited(
            allowed=("positional",), why="timesteps are given, not the logarithm of sigma"
        ),
        "attention_type": Limited(allowed=("default",), why="no boxes to ground on are given"),
    },
)

TRANSFORMER_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            "num_attention_heads",
            "attention_head_dim",
            "in_channels",
            "out_channels",
            "num_layers",
            "dropout",
            "norm_num_groups",
            "cross_attention_dim",
            "attention_bias",
            "sample_size",
            "patch_size",
            "activation_fn",
            "num_embeds_ada_norm",
            "upcast_attention",
            "norm_type",
            "norm_elementwise_affine",
            "norm_eps",
            "interpolation_scale",
            "caption_channels",
        }
    ),
    limited={
        "use_additional_conditions": Limited(
            allowed=(None, False), why="resolution and aspect ratio are not given"
        ),
        "attention_type": Limited(allowed=("default",), why="no boxes to ground on are given"),
    },
)

DENOISER_DECISIONS: Final[Mapping[str, Decisions]] = {
    "UNet2DConditionModel": UNET_DECISIONS,
    "PixArtTransformer2DModel": TRANSFORMER_DECISIONS,
}


def check_denoiser_settings(settings: Mapping[str, Any], *, where: str) -> None:
    """Raises `SettingsError` where a supported denoiser's settings say what is not honoured."""
    check_settings(settings, DENOISER_DECISIONS[str(settings["_class_name"])], where=where)
    size = settings.get("sample_size")
    if size is not None and not isinstance(size, int):
        raise SettingsError(
            f"{where}: sample_size is {size!r}; allowed: one whole number, the side of square "
            "latents"
        )


def check_channels(settings: Mapping[str, Any], *, latent_channels: int) -> None:
    """Hold a denoiser's inputs and outputs against the autoencoder's latents.

    Raises:
        SettingsError: it gives something else than latents, or wants classes that only upscaling
            has.
    """
    is_unet = settings["_class_name"] == "UNet2DConditionModel"
    channels = int(settings.get("in_channels", 4))
    found = int(settings.get("out_channels", 4 if is_unet else 8))
    allowed = [latent_channels]
    if not is_unet:
        allowed.append(2 * latent_channels)  # a variance beside, which sampling leaves out
    if found not in allowed:
        raise SettingsError(
            f"denoiser: out_channels is {found}, and the autoencoder's latents have "
            f"{latent_channels} channels; allowed: {' or '.join(map(str, allowed))}"
        )
    classes = settings.get("num_class_embeds")
    if classes is not None and channels != latent_channels + _IMAGE_CHANNELS:
        raise SettingsError(
            f"denoiser: num_class_embeds is {classes}: it wants a class of each image, which only "
            "a model of upscaling is given (its noise level); allowed: null"
        )
