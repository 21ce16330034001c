"""Everything `jobs/train.py` can be told about an autoencoder's training."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.training.config import DataConfig, TrainingConfig
from sd_core.training.autoencoder_task import AutoencoderLossConfig
from sd_core.training.trained_autoencoder import TrainedAutoencoderConfig


class ImageDataConfig(DataConfig):
    """A curated run, and how much of the training it makes up."""

    path: str = Field(min_length=1)
    """The run's folder: an absolute path or an fsspec URL."""


class HeldOutConfig(Config):
    """Images of the first run that are not trained on and show how it goes."""

    held_out: int = Field(default=64, ge=1)
    """The first kept rows of the first run; their PSNR is recorded. Unit: images."""
    shown: int = Field(default=8, ge=1)
    """How many of them the grid shows. Unit: images."""


class AutoencoderTrainConfig(TrainingConfig):
    """An autoencoder's training from curated images."""

    task: Literal["autoencoder"]
    """What is trained; `denoiser` is the other training."""
    data: list[ImageDataConfig] = Field(min_length=1)
    """Curated runs to train on, mixed by weight."""
    model: TrainedAutoencoderConfig
    losses: AutoencoderLossConfig = AutoencoderLossConfig()
    random_flip: bool = False
    """Show each image from left to right or mirrored, by chance, in each epoch."""
    samples: HeldOutConfig = HeldOutConfig()
    scaling_images: int = Field(default=1024, ge=1)
    """Training images whose latents the scaling factor is measured on."""

    @model_validator(mode="after")
    def _check_compile(self) -> Self:
        if self.loop.compile and self.losses.discriminator.weight:
            raise ValueError(
                "loop.compile: the adaptive weight goes through the decoder's graph three times, "
                "which a compiled graph does not allow; set loop.compile to false, or "
                "losses.discriminator.weight to 0"
            )
        return self
