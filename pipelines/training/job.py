"""The training job: check everything, then train on one process or many."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.engine.training import open_training
from pipelines.run import StepIdentity, check_or_record, read_run
from pipelines.storage import RunStore
from pipelines.training.config import TrainConfig
from pipelines.training.model_card import public_config
from pipelines.training.result import MODEL_FOLDER, cache_sha256, read_result
from pipelines.training.worker import open_caches
from pipelines.versions import describe_program
from sd_core.cache.latent_cache import LatentCache, check_caches
from sd_core.model.latent_diffusion import LatentDiffusionConfig
from sd_core.model.weights import check_weights, weights_identity

STEP = "train"
_ONLY_HOW = {"log_every", "checkpoint_every", "keep_checkpoints", "sample_every"}


class TrainError(Exception):
    """The job cannot run as it is configured; the message says why."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What the job ends with."""

    steps: int
    model: str
    """The diffusers folder."""


def train(config: TrainConfig, *, say: Callable[[str], None]) -> TrainResult:
    """Train, or go on where an earlier call stopped, or say that there is nothing to do.

    Raises:
        RunMismatchError: the output holds a training with other options; they are named.
        What `train_worker` raises, and the engine's errors: see their messages.
    """
    store = RunStore(config.output, config.storage_options)
    caches = open_caches(config)
    check_caches(caches, model_identity=None)
    check_weights(config.model.weight_needs("model"))
    identity = StepIdentity(step=STEP, options=_options(config, caches))
    _refuse_foreign_output(store)
    with open_training(store, config, say=say) as run_workers:
        record = {"job": STEP, "config": public_config(config), **describe_program()}
        check_or_record(store, [identity], job=record)
        result = read_result(store)
        if result is not None and result["step"] >= config.loop.steps:
            say("nothing to do: the training is complete")
        else:
            run_workers(identity.fingerprint)
    done = read_result(store)
    if done is None:
        raise TrainError(f"{config.output}: the workers ended without a result")
    return TrainResult(steps=done["step"], model=f"{config.output.rstrip('/')}/{MODEL_FOLDER}")


def _refuse_foreign_output(store: RunStore) -> None:
    steps = read_run(store).get("steps", {})
    if steps and STEP not in steps:
        raise TrainError(
            f"{store.root}: holds a run of another job ({', '.join(sorted(steps))}); give another "
            "output"
        )


def _options(config: TrainConfig, caches: Sequence[LatentCache]) -> Mapping[str, Any]:
    """Everything that changes the weights after a given step.

    With a constant learning rate the number of steps does not, so that more may be asked later.
    """
    how = _ONLY_HOW | ({"steps"} if config.optimizer.schedule == "constant" else set[str]())
    return {
        "data": {
            str(index): {"sha256": cache_sha256(cache), "weight": data.weight}
            for index, (data, cache) in enumerate(zip(config.data, caches, strict=True))
        },
        "model": _model_options(config.model),
        "loop": config.loop.model_dump(mode="json", exclude=how),
        "objective": config.objective.model_dump(mode="json"),
        "optimizer": config.optimizer.model_dump(mode="json"),
        "order": config.order.model_dump(mode="json"),
        "torch_threads": config.engine.torch_threads,
    }


def _model_options(model: LatentDiffusionConfig) -> Mapping[str, Any]:
    schedule = model.noise_schedule
    options: dict[str, Any] = {
        "noise_schedule": None if schedule is None else schedule.model_dump(mode="json")
    }
    if model.model is not None:
        return (
            options | {"precision": model.precision} | weights_identity(model.model, model.sha256)
        )
    for name in ("autoencoder", "text_encoder", "text_encoder_2", "denoiser"):
        section = getattr(model, name)
        options[name] = None if section is None else section.identity()
    return options
