"""What decides a training's weights: checked before anything is written, then recorded."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.training.autoencoder_config import AutoencoderTrainConfig
from pipelines.training.autoencoder_worker import open_image_sets
from pipelines.training.config import TrainConfig, TrainingConfig
from pipelines.training.result import cache_sha256
from pipelines.training.samples import check_samples
from pipelines.training.worker import open_caches
from sd_core.cache.latent_cache import LatentCache, check_caches
from sd_core.model.denoiser import denoiser_settings
from sd_core.model.latent_diffusion_check import check_latent_diffusion, foreseen_identity
from sd_core.model.weights import WeightsError, check_weights
from sd_core.say import Say

_ONLY_HOW = {"log_every", "checkpoint_every", "keep_checkpoints", "sample_every"}


def denoiser_options(config: TrainConfig, *, say: Say) -> Mapping[str, Any]:
    """Check caches, weights and samples; everything that changes the weights after a given step."""
    caches: Sequence[LatentCache] = open_caches(config)
    check_caches(caches, model_identity=None)
    check_weights(config.model.weight_needs("model"))
    check_caches(caches, model_identity=_check_model(config, say=say))
    return {
        "data": {
            str(index): {"sha256": cache_sha256(cache), "weight": data.weight}
            for index, (data, cache) in enumerate(zip(config.data, caches, strict=True))
        },
        "model": config.model.identity(),
        "objective": config.objective.model_dump(mode="json"),
        **_shared_options(config),
    }


def _check_model(config: TrainConfig, *, say: Say) -> Mapping[str, Any]:
    """Refuse what a model's files say and training does not honour, before a worker loads it; what
    they tell of its identity."""
    sections = check_latent_diffusion(config.model, tasks=["text_to_image"])
    width = denoiser_settings(sections.denoiser).get("time_cond_proj_dim")
    if width is not None:
        raise WeightsError(
            f"model: the denoiser's time_cond_proj_dim is {width}: it takes the scale of guidance "
            "as an input, which training does not give; allowed: null; name the model that it was "
            "distilled of"
        )
    check_samples(config.samples, sections, say=say)
    return foreseen_identity(sections)


def autoencoder_options(config: AutoencoderTrainConfig) -> Mapping[str, Any]:
    """Check images and weights; everything that changes the weights after a given step."""
    image_sets = open_image_sets(config)
    check_weights([*config.model.weight_needs(), *config.losses.perceptual.weight_needs()])
    return {
        "task": config.task,
        "data": {
            str(index): {"sha256": images.sha256, "weight": data.weight}
            for index, (data, images) in enumerate(zip(config.data, image_sets, strict=True))
        },
        "held_out": config.samples.held_out,
        "random_flip": config.random_flip,
        "model": config.model.identity(),
        "losses": config.losses.identity(),
        **_shared_options(config),
    }


def _shared_options(config: TrainingConfig) -> dict[str, Any]:
    """With a constant learning rate the number of steps does not count, so that more may be asked
    later."""
    how = _ONLY_HOW | ({"steps"} if config.optimizer.schedule == "constant" else set[str]())
    return {
        "loop": config.loop.model_dump(mode="json", exclude=how),
        "optimizer": config.optimizer.model_dump(mode="json"),
        "order": config.order.model_dump(mode="json"),
        "torch_threads": config.engine.torch_threads,
    }
