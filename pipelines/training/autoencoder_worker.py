"""What one worker of an autoencoder's training does; Ray is not needed for it."""

from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipelines.run.sight import Tell
from pipelines.run.store import RunStore
from pipelines.training.config import AutoencoderTrainConfig
from pipelines.training.image_dataset import ImageDataset, check_image_sets
from pipelines.training.image_set import ImageSet, check_tars, open_image_set, read_first
from pipelines.training.loop import run_training
from pipelines.training.result import publish_result
from pipelines.training.samples import Shown, draw_pairs, reconstruct, with_weights
from sd_core.say import Say
from sd_core.training.autoencoder_task import GENERATOR, AutoencoderTask
from sd_core.training.flops import count_flops
from sd_core.training.image_batches import GatheredImages, as_input, collate_images
from sd_core.training.task import Place
from sd_core.training.trained_autoencoder import (
    TrainedAutoencoder,
    load_trained_autoencoder,
    measure_scaling_factor,
)
from sd_core.training.trainer import Trainer

PSNR = "held_out_psnr_db"


def train_autoencoder_worker(
    config: AutoencoderTrainConfig,
    place: Place,
    *,
    fingerprint: str,
    say: Say,
    tell: Tell = lambda sight: None,
    until: int | None = None,
) -> None:
    """Train an autoencoder to the end from the newest checkpoint.

    Raises:
        ImageSetError: the images cannot be trained on.
        WeightsError: the model, or what its loss needs, cannot be loaded.
        What `run_training` raises.
    """
    if config.engine.torch_threads is not None:
        torch.set_num_threads(config.engine.torch_threads)
    image_sets = open_image_sets(config)
    if config.check_data:
        tars = check_tars(image_sets, rank=place.rank, world_size=place.world_size)
        if place.rank == 0:
            say(f"{tars:,} tars read and found whole")
    training = AutoencoderTraining(config, image_sets, device=place.device)
    run_training(training, config, place, fingerprint=fingerprint, until=until, say=say, tell=tell)


def open_image_sets(config: AutoencoderTrainConfig) -> list[ImageSet]:
    """Open every run of the configuration, the first less its held-out rows; all of one size.

    Raises:
        ImageSetError: see `open_image_set`.
    """
    sets = [open_image_set(one.path, storage_options=one.storage_options) for one in config.data]
    check_image_sets(sets)
    return [sets[0].without_first(config.samples.held_out), *sets[1:]]


class AutoencoderTraining:
    """An autoencoder, learning from curated images."""

    def __init__(
        self,
        config: AutoencoderTrainConfig,
        image_sets: Sequence[ImageSet],
        *,
        device: torch.device,
    ) -> None:
        self._config = config
        self._image_sets = image_sets
        self._autoencoder = load_trained_autoencoder(config.model)
        self._latents_shape = self._autoencoder.latents_shape(
            resolution_px=image_sets[0].resolution_px
        )
        first = config.data[0]
        whole = open_image_set(first.path, storage_options=first.storage_options)
        self._held_out = read_first(whole, config.samples.held_out)
        self.task = AutoencoderTask(
            self._autoencoder,
            losses=config.losses,
            optimizer=config.optimizer,
            ema_decay=config.loop.ema_decay,
            device=device,
        )

    def batches(self, place: Place, *, start_step: int) -> Generator[GatheredImages, None, None]:
        config = self._config
        dataset = ImageDataset(
            self._image_sets,
            weights=[data.weight for data in config.data],
            seed=config.loop.seed,
            num_streams=config.order.num_streams,
            rank=place.rank,
            world_size=place.world_size,
        )
        for drawn in dataset.batches(batch_size=config.loop.batch_size, start_step=start_step):
            yield collate_images(
                drawn,
                latents_shape=self._latents_shape,
                seed=config.loop.seed,
                random_flip=config.random_flip,
            )

    def describe(self) -> str:
        """Images and parameters."""
        rows = sum(one.num_rows for one in self._image_sets)
        counts = [
            f"a {part.name} of {sum(one.numel() for one in part.module.parameters()):,} parameters"
            for part in self.task.parts
        ]
        return f"{rows:,} images, {len(self._held_out)} held out; {', '.join(counts)}"

    def count_sample_flops(self) -> int:
        """Of the autoencoder's forward and backward; LPIPS and the discriminator come on top."""
        side = self._image_sets[0].resolution_px
        device = next(self._autoencoder.parameters()).device
        zeros = torch.zeros(1, 3, side, side, device=device)
        return 3 * count_flops(lambda: self._autoencoder(zeros))

    def show(self, trainer: Trainer) -> Shown:
        """Held-out images over their reconstructions, and the PSNR."""
        found, psnr = self._reconstruct(self._averaged(trainer))
        shown = self._config.samples.shown
        return Shown(image=draw_pairs(self._held_out[:shown], found[:shown]), values={PSNR: psnr})

    def publish(self, store: RunStore, trainer: Trainer, *, fingerprint: str) -> None:
        """The autoencoder, with its averaged weights and scaling factor, as a diffusers folder."""
        config, autoencoder = self._config, self._averaged(trainer)
        _, psnr = self._reconstruct(autoencoder)
        images = as_input(read_first(self._image_sets[0], config.scaling_images))
        factor = measure_scaling_factor(autoencoder, images, batch_size=config.loop.batch_size)
        module = autoencoder.autoencoder
        module.register_to_config(scaling_factor=factor, _name_or_path="")
        publish_result(
            store,
            config,
            lambda folder: module.save_pretrained(folder, safe_serialization=True),
            step=trainer.step,
            fingerprint=fingerprint,
            data=[(images, images.sha256) for images in self._image_sets],
            figures={"scaling_factor": factor, PSNR: psnr},
        )

    def _averaged(self, trainer: Trainer) -> TrainedAutoencoder:
        return with_weights(self._autoencoder, trainer.averaged_weights(GENERATOR))

    def _reconstruct(self, autoencoder: TrainedAutoencoder) -> tuple[npt.NDArray[np.uint8], float]:
        batch_size = self._config.loop.batch_size
        return reconstruct(autoencoder, self._held_out, batch_size=batch_size)
