"""How long, how fast and in what precision to train."""

from typing import Literal

from pydantic import Field, model_validator

from sd_core.model.config import ModelConfig
from sd_core.model.precision import Precision


class OptimizerConfig(ModelConfig):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) and its learning rate."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """After the warm-up."""
    warmup_steps: int = Field(default=1000, ge=0)
    """Linear, from nothing."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up; cosine falls to nothing at the last step."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients longer than this are shortened to it."""


class LoopConfig(ModelConfig):
    """The training loop."""

    steps: int = Field(ge=1)
    """Steps of the optimizer."""
    batch_size: int = Field(ge=1)
    """Samples a step, over all workers."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Parts that each worker's share of a batch is cut into."""
    seed: int = Field(default=0, ge=0)
    """Of the order of samples, their noise, and the dropped captions."""
    precision: Precision = "auto"
    """Of the forward and backward passes; the weights stay in fp32."""
    ema_decay: float | None = Field(default=0.9999, gt=0, lt=1)
    """Of the averaged weights, which are those that samples and the result use; null: none."""
    gradient_checkpointing: bool = False
    compile: bool = False
    """torch.compile the trained module."""
    channels_last: bool = False
    log_every: int = Field(default=50, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    sample_every: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "LoopConfig":
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of gradient_accumulation "
                f"{self.gradient_accumulation}"
            )
        return self
