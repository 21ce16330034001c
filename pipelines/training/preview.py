"""`--plan` of a training: what it would train on and take; nothing is written anywhere."""

from collections.abc import Iterator

from pipelines.report.outlook import beside, check_may_write, disk_lines, gpu_hours, model_lines
from pipelines.run.draft_store import DraftStore
from pipelines.run.folder import check_output
from pipelines.run.processors import PROCESSORS_FOLDER, noted_processors
from pipelines.run.recorded_options import check_recorded
from pipelines.run.store import RunStore
from pipelines.training.autoencoder_worker import open_image_sets
from pipelines.training.checkpoints import newest_step
from pipelines.training.config import AutoencoderTrainConfig
from pipelines.training.job import STEP, check_training
from pipelines.training.loop import AnyTrainConfig
from pipelines.training.records import read_metrics
from pipelines.training.result import TrainedOn
from pipelines.training.worker import open_caches
from sd_core.model.download import nothing_fetched
from sd_core.model.weights import WeightsNeed
from sd_core.model.weights_here import look_for_weights
from sd_core.redact import redact_url
from sd_core.say import Say, duration, size


def preview_training(config: AnyTrainConfig, *, limit: int | None, say: Say) -> list[str]:
    """What the job would do, in lines; raises what the job would be refused for."""
    store = DraftStore.over(RunStore(config.output, config.storage_options, flat=True))
    with nothing_fetched():
        models = look_for_weights(_needs(config))
        if all(model.num_bytes is not None for model in models):
            check_recorded(store, [check_training(config, store, say=say)])
        check_output(store, job=STEP)
        data: list[TrainedOn] = [*_open(config)]
    check_may_write(store)
    rows, batch = sum(each.num_rows for each in data), config.loop.batch_size
    last = config.loop.steps if limit is None else min(limit, config.loop.steps)
    done = newest_step(store)
    return [
        f"plan: {rows:,} rows in {len(data):,} data set(s); {last:,} steps of {batch:,} rows: "
        f"{last * batch / max(1, rows):,.1f} epochs; {max(0, last - done):,} steps to do",
        *model_lines(models),
        *disk_lines(store, needed=None),
        *_estimate(store, config, samples=max(0, last - done) * batch),
        "nothing was written",
    ]


def _needs(config: AnyTrainConfig) -> list[WeightsNeed]:
    if isinstance(config, AutoencoderTrainConfig):
        return [*config.model.weight_needs(), *config.losses.perceptual.weight_needs()]
    return config.model.weight_needs("model")


def _open(config: AnyTrainConfig) -> Iterator[TrainedOn]:
    if isinstance(config, AutoencoderTrainConfig):
        yield from open_image_sets(config)
    else:
        yield from open_caches(config)


def _estimate(store: RunStore, config: AnyTrainConfig, *, samples: int) -> Iterator[str]:
    """By the last figures of the training itself, or of one beside it."""
    if not samples:
        yield "time: nothing is left to do"
        return
    for past in (store, *beside(store)):
        speeds = [s for line in read_metrics(past) if (s := line.get("images_per_second"))]
        if not speeds:
            continue
        seconds = samples / speeds[-1]
        yield f"rates: of {redact_url(past.root)}: {speeds[-1]:,.1f} images a second"
        yield f"time: about {duration(seconds)}"
        yield f"bytes: about {size(past.filesystem.du(past.absolute('')))}, as there"
        names = noted_processors(past, PROCESSORS_FOLDER)
        gpus = config.engine.num_workers if config.engine.use_gpu is not False else 0
        yield f"GPU-hours: {gpu_hours(seconds, names, gpus=gpus)}"
        return
    yield "time: unknown: no earlier training lies here or beside the output; try --limit first"
    yield "bytes: unknown"
    yield "GPU-hours: unknown"
