"""The training job: check everything, then train on one process or many."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from pipelines.config import Config, ConfigError, load_config
from pipelines.engine.training import open_training
from pipelines.run.folder import check_output
from pipelines.run.record import StepIdentity
from pipelines.run.recorded_options import check_or_record
from pipelines.run.store import RunStore
from pipelines.run.versions import describe_program
from pipelines.training.autoencoder_worker import open_image_sets, train_autoencoder_worker
from pipelines.training.checkpoints import note_result
from pipelines.training.config import AutoencoderTrainConfig, TrainConfig, TrainingConfig
from pipelines.training.loop import AnyTrainConfig
from pipelines.training.model_card import public_config
from pipelines.training.records import check_trackers
from pipelines.training.result import (
    MODEL_FOLDER,
    ResultError,
    cache_sha256,
    check_model,
    read_result,
)
from pipelines.training.samples import check_samples
from pipelines.training.worker import (
    check_streams,
    open_caches,
    rows_per_unit_of_config,
    train_worker,
)
from sd_core.cache.latent_cache import LatentCache, check_caches
from sd_core.errors import FoundryError
from sd_core.model.denoiser import denoiser_settings
from sd_core.model.latent_diffusion_check import check_latent_diffusion, foreseen_identity
from sd_core.model.latent_diffusion_config import LatentDiffusionSections
from sd_core.model.weights import WeightsError, check_weights
from sd_core.say import Say

STEP = "train"
_T5_PART = "text_encoder_3"
_ONLY_HOW = {"log_every", "checkpoint_every", "keep_checkpoints", "sample_every"}


class TrainError(FoundryError):
    """The workers did not do what they should; the message says what."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What the job ends with."""

    steps: int
    model: str
    """The diffusers folder."""


class _TaskChoice(Config):
    """The one key that says what the others are."""

    model_config = ConfigDict(extra="ignore")

    task: Literal["denoiser", "autoencoder"] = "denoiser"


def load_train_config(path: str | Path, *, overrides: Iterable[str]) -> AnyTrainConfig:
    """Read a training's YAML; its top-level `task` says of what. Raises `ConfigError`."""
    overrides = list(overrides)
    choice = load_config(_TaskChoice, path, overrides=overrides)
    if choice.task == "autoencoder":
        return load_config(AutoencoderTrainConfig, path, overrides=overrides)
    return load_config(TrainConfig, path, overrides=overrides)


def train(config: AnyTrainConfig, *, say: Say, limit: int | None = None) -> TrainResult:
    """Train, or go on where an earlier call stopped, or say that there is nothing to do.

    Args:
        limit: Only so many steps, the first; a later call goes on to the same weights.

    Raises:
        RunMismatchError: the output holds a training with other options; they are named.
        NotARunError, StorageError: the output holds something else.
        What the task's worker raises, and the engine's errors: see their messages.
    """
    store = RunStore(config.output, config.storage_options, flat=True)
    identity = check_training(config, store, say=say)
    is_autoencoder = isinstance(config, AutoencoderTrainConfig)
    worker: Callable[..., None] = train_autoencoder_worker if is_autoencoder else train_worker
    last = config.loop.steps if limit is None else min(limit, config.loop.steps)
    with open_training(store, config, partial(worker, until=last), say=say) as run_workers:
        record = {"job": STEP, "config": public_config(config), **describe_program()}
        check_or_record(store, [identity], job=record)
        result = _whole_result(store, say)
        if result is not None and result["step"] >= last:
            say("nothing to do: the training is complete")
        else:
            run_workers(identity.fingerprint)
        done = read_result(store)
        if done is None:
            raise TrainError(f"{config.output}: the workers ended without a result")
        note_result(store, done["step"])
    return TrainResult(steps=done["step"], model=f"{config.output.rstrip('/')}/{MODEL_FOLDER}")


def check_training(config: AnyTrainConfig, store: RunStore, *, say: Say) -> StepIdentity:
    """What decides the training's weights; raises for all that can be refused, as `train` does."""
    check_output(store, job=STEP)
    check_trackers(config.tracking)
    options: Mapping[str, Any]
    if isinstance(config, AutoencoderTrainConfig):
        options = autoencoder_options(config)
    else:
        options = denoiser_options(config, say=say)
    return StepIdentity(step=STEP, options=options)


def _whole_result(store: RunStore, say: Say) -> Mapping[str, Any] | None:
    """What was published; a damaged one is published again, from the last checkpoint."""
    try:
        result = read_result(store)
        if result is not None:
            check_model(store, result)
        return result
    except ResultError as error:
        say(f"{error}: to be published again")
        return None


def denoiser_options(config: TrainConfig, *, say: Say) -> Mapping[str, Any]:
    """Check caches, weights and samples; everything that changes the weights after a given step."""
    caches: Sequence[LatentCache] = open_caches(config)
    check_caches(caches, model_identity=None)
    check_streams(config, caches)
    if caches[0].spec.buckets:
        rows_per_unit_of_config(config)
    check_weights(config.model.weight_needs("model"))
    check_caches(caches, model_identity=_check_model(config, say=say))
    return {
        "data": {
            str(index): {"sha256": cache_sha256(cache), "weight": data.weight}
            for index, (data, cache) in enumerate(zip(config.data, caches, strict=True))
        },
        "model": config.model.identity(),
        "objective": config.objective.identity(),
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
    if fault := config.objective.fault(sections.noise_schedule.prediction_type):
        raise ConfigError(f"objective.{fault}")
    _check_text(sections)
    check_samples(config.samples, sections, say=say)
    return foreseen_identity(sections)


def _check_text(sections: LatentDiffusionSections) -> None:
    """Refuse a model whose text does not follow from the ids that a cache holds."""
    if _T5_PART in sections.text_encoders:
        raise WeightsError(
            f"model: {_T5_PART} is a T5 with a tokenizer of its own, and a cache "
            "holds the token ids of CLIP alone: Stable Diffusion 3 cannot be trained from it yet; "
            f"allowed: a folder whose model_index.json has {_T5_PART} and tokenizer_3 null, which "
            "is trained on zeros in T5's place"
        )


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
        "order": config.order.model_dump(mode="json", exclude_none=True),
        "torch_threads": config.engine.torch_threads,
    }
