"""The shared latent diffusion model and its latent cache: torch and diffusers, never Ray.

The names below are for code outside this project. Each is imported when it is first asked for, so
that whoever reads a cache loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sd_core.cache.latent_cache import LatentCache as LatentCache
    from sd_core.cache.latent_cache import open_cache as open_cache
    from sd_core.cache.latents import mean_latents as mean_latents
    from sd_core.cache.latents import scale_latents as scale_latents
    from sd_core.cache.reading import iterate_samples as iterate_samples
    from sd_core.cache.samples import LatentSample as LatentSample
    from sd_core.model.autoencoder import decode_latents as decode_latents
    from sd_core.model.autoencoder import load_autoencoder as load_autoencoder
    from sd_core.model.autoencoder_config import AutoencoderConfig as AutoencoderConfig
    from sd_core.model.latent_diffusion import LatentDiffusion as LatentDiffusion
    from sd_core.model.latent_diffusion import load_latent_diffusion as load_latent_diffusion
    from sd_core.model.latent_diffusion_config import LatentDiffusionConfig as LatentDiffusionConfig
    from sd_core.model.latent_diffusion_saving import save_latent_diffusion as save_latent_diffusion
    from sd_core.sampling.picture_grid import Cell as Cell
    from sd_core.sampling.picture_grid import picture_grid as picture_grid
    from sd_core.sampling.text_to_image import as_levels as as_levels

_MODULES = {
    "AutoencoderConfig": "model.autoencoder_config",
    "Cell": "sampling.picture_grid",
    "LatentCache": "cache.latent_cache",
    "LatentDiffusion": "model.latent_diffusion",
    "LatentDiffusionConfig": "model.latent_diffusion_config",
    "LatentSample": "cache.samples",
    "as_levels": "sampling.text_to_image",
    "decode_latents": "model.autoencoder",
    "iterate_samples": "cache.reading",
    "load_autoencoder": "model.autoencoder",
    "load_latent_diffusion": "model.latent_diffusion",
    "mean_latents": "cache.latents",
    "open_cache": "cache.latent_cache",
    "picture_grid": "sampling.picture_grid",
    "save_latent_diffusion": "model.latent_diffusion_saving",
    "scale_latents": "cache.latents",
}
__all__ = [*_MODULES]

if not TYPE_CHECKING:  # for whom any name would be there

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
