"""The denoisers by their diffusers class; to add one, write its file and add its line here."""

from typing import Final

from sd_core.model.denoiser_family import DenoiserFamily
from sd_core.model.mmdit import MMDIT, MMDIT_FAMILY
from sd_core.model.pixart import TRANSFORMER, TRANSFORMER_FAMILY
from sd_core.model.unet import UNET, UNET_FAMILY

DENOISERS: Final[dict[str, DenoiserFamily]] = {
    UNET: UNET_FAMILY,
    TRANSFORMER: TRANSFORMER_FAMILY,
    MMDIT: MMDIT_FAMILY,
}
