"""Everything `jobs/train.py` can be told."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config, StorageOptions
from pipelines.engine.training_config import TrainEngineConfig
from sd_core.model.latent_diffusion import LatentDiffusionConfig
from sd_core.sampling.samplers import SamplerName
from sd_core.training.autoencoder_task import AutoencoderLossConfig
from sd_core.training.config import LoopConfig, OptimizerConfig
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.trained_autoencoder import TrainedAutoencoderConfig


class DataConfig(Config):
    """A latent cache, and how much of the training it makes up."""

    path: str = Field(min_length=1)
    """A run's `latents` folder: an absolute path or an fsspec URL."""
    weight: float = Field(default=1.0, gt=0)
    """Its share of the samples is its weight over the sum of all weights."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """Passed to fsspec; may hold secrets, so it is never stored."""


class OrderConfig(Config):
    """The order of samples, which depends on `loop.seed` and on these alone."""

    num_streams: int = Field(default=64, ge=1, le=65_536)
    """Canonical streams that are divided among the workers, whose number must divide it. Unit:
    streams."""
    rows_per_unit: int | None = Field(default=None, ge=1)
    """Of caches of several sizes (`image.buckets`): rows of one size that go through the model
    together. It divides `loop.batch_size`, and the workers divide what comes out. Null: the largest
    divisor that is at most 8. Unit: rows."""


class SamplesConfig(Config):
    """The grid of images that shows how the training goes; an empty list of prompts: none."""

    prompts: list[str] = Field(default_factory=list)
    """One image of each; empty: no grid."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the noise that the images start from."""
    sampler: SamplerName = "ddim"
    """Which sampler draws them."""
    num_inference_steps: int = Field(default=30, ge=1)
    """Steps of the sampler."""
    guidance_scale: float = Field(default=7.5, ge=0)
    """Up to 1 guides nothing. Unit: factor."""


class TrackingConfig(Config):
    """Where figures go besides `metrics.jsonl` and the log."""

    tensorboard: bool = True
    """Event files under `<output>/tensorboard`; only where the output is a local folder."""
    wandb: str | None = None
    """A Weights & Biases project; `pip install wandb` and its environment variables are needed."""


class TrainingConfig(Config):
    """What every training can be told."""

    output: str = Field(min_length=1)
    """An absolute path or an fsspec URL."""
    loop: LoopConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    order: OrderConfig = OrderConfig()
    tracking: TrackingConfig = TrackingConfig()
    engine: TrainEngineConfig = TrainEngineConfig()
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """Passed to fsspec for `output`; may hold secrets, so it is never stored."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """What a worker's device can do at `loop.precision`; null measures it with a product of
    matrices at the start. Only the progress line uses it."""
    check_data: bool = True
    """Read every shard once before the first batch, and hold it against its digest; false trusts
    what is there, and finds a damaged row when it is drawn."""

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        workers = self.engine.num_workers
        if self.loop.batch_size % workers or self.order.num_streams % workers:
            raise ValueError(
                f"engine.num_workers {workers} must divide loop.batch_size {self.loop.batch_size} "
                f"and order.num_streams {self.order.num_streams}"
            )
        return self


class TrainConfig(TrainingConfig):
    """A denoiser's training from latent caches."""

    task: Literal["denoiser"] = "denoiser"
    """What is trained; `autoencoder` is the other training."""
    data: list[DataConfig] = Field(min_length=1)
    """Caches to train on, mixed by weight."""
    model: LatentDiffusionConfig
    """What training starts from; its caches must be of the same autoencoder and text encoder."""
    objective: ObjectiveConfig = ObjectiveConfig()
    samples: SamplesConfig = SamplesConfig()


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
        if self.loop.compile == "blocks":
            raise ValueError("loop.compile: an autoencoder repeats no blocks; allowed: true, false")
        if self.loop.compile and self.losses.discriminator.weight:
            raise ValueError(
                "loop.compile: the adaptive weight goes through the decoder's graph three times, "
                "which a compiled graph does not allow; set loop.compile to false, or "
                "losses.discriminator.weight to 0"
            )
        return self
