"""Captions to conditionings, the empty one included."""

from collections.abc import Sequence

from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_encoder import encode_captions


def condition_on(model: LatentDiffusion, captions: Sequence[str]) -> Conditioning:
    """Encode captions for the denoiser; `[""]` gives guidance its unconditional row.

    Raises:
        ValueError: the model has two text encoders, which is not supported yet.
    """
    if model.text_encoder_2 is not None:
        raise ValueError(
            "the model has two text encoders; captions can be encoded for one only, so build the "
            "Conditioning (pooled_prompt_embeds, time_ids) yourself"
        )
    encoded = encode_captions(model.text_encoder, captions)
    return Conditioning(prompt_embeds=encoded.prompt_embeds)
