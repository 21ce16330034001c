"""Which keys of an autoencoder's `config.json` are honoured; see `settings_check`."""

from collections.abc import Mapping
from typing import Any, Final

from sd_core.model.settings_check import Decisions, Limited, SettingsError, check_settings

_BUILT: Final = frozenset(
    {
        "down_block_types",
        "up_block_types",
        "block_out_channels",
        "layers_per_block",
        "act_fn",
        "latent_channels",
        "norm_num_groups",
        "scaling_factor",
        "mid_block_add_attention",
    }
)
_HARMLESS: Final = {
    "sample_size": "only of tiling, which is not used",
    "force_upcast": "of float16, which is not offered: autoencoders run in float32 or bfloat16",
}
_RGB: Final = Limited(allowed=(3,), why="images are RGB")
_CHANNELS_SCALED: Final = Limited(
    allowed=(None,), why="latents are scaled by one scaling_factor and one shift_factor"
)

AUTOENCODER_DECISIONS: Final[Mapping[str, Decisions]] = {
    "AutoencoderKL": Decisions(
        honoured=_BUILT | {"shift_factor", "use_quant_conv", "use_post_quant_conv"},
        harmless=_HARMLESS,
        limited={
            "in_channels": _RGB,
            "out_channels": _RGB,
            "latents_mean": _CHANNELS_SCALED,
            "latents_std": _CHANNELS_SCALED,
        },
    ),
    "AutoencoderTiny": Decisions(
        honoured=frozenset(
            {
                "encoder_block_out_channels",
                "decoder_block_out_channels",
                "act_fn",
                "upsample_fn",
                "latent_channels",
                "num_encoder_blocks",
                "num_decoder_blocks",
                "scaling_factor",
                "shift_factor",
            }
        ),
        harmless=_HARMLESS
        | {
            "latent_magnitude": "only of latents stored as bytes, which is not done",
            "latent_shift": "only of latents stored as bytes, which is not done",
            "block_out_channels": "diffusers writes it itself; the encoder's own counts",
        },
        limited={
            "in_channels": _RGB,
            "out_channels": _RGB,
            "upsampling_scaling_factor": Limited(
                allowed=(2,), why="each level halves the sides, so each must double them"
            ),
        },
    ),
    "VQModel": Decisions(
        honoured=_BUILT | {"num_vq_embeddings", "vq_embed_dim", "norm_type"},
        harmless=_HARMLESS,
        limited={
            "in_channels": _RGB,
            "out_channels": _RGB,
            "lookup_from_codebook": Limited(
                allowed=(False,), why="latents are vectors, not numbers of the codebook"
            ),
        },
    ),
}


def check_autoencoder_settings(settings: Mapping[str, Any], *, where: str) -> None:
    """Raises `SettingsError` where a supported autoencoder says what is not honoured."""
    check_settings(settings, AUTOENCODER_DECISIONS[str(settings["_class_name"])], where=where)
    width, channels = settings.get("vq_embed_dim"), settings.get("latent_channels")
    if width is not None and width != channels:
        raise SettingsError(
            f"{where}: vq_embed_dim is {width}; allowed: null or latent_channels ({channels}), as "
            "the codebook's vectors are the latents"
        )
