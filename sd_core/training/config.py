"""How long, how fast and in what precision to train."""

from typing import Literal

from pydantic import Field, model_validator

from sd_core.model.config import ModelConfig
from sd_core.model.precision import Precision


class OptimizerConfig(ModelConfig):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) and its learning rate."""

    learning_rate: float = Field(default=1e-4, gt=0)
    """After the warm-up. Unit: number."""
    warmup_steps: int = Field(default=1000, ge=0)
    """Linear, from nothing."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up; cosine falls to nothing at the last step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square. Unit: number."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second before dividing by it. Unit: number."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Share of the weights, times the learning rate, that each step takes away. Unit: share."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients longer than this are shortened to it. Unit: number."""


class LoopConfig(ModelConfig):
    """The training loop."""

    steps: int = Field(ge=1)
    """Steps of the optimizer."""
    batch_size: int = Field(ge=1)
    """Samples a step, over all workers."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Parts that each worker's share of a batch is cut into. Unit: parts."""
    seed: int = Field(default=0, ge=0)
    """Of the order of samples, their noise, and the dropped captions."""
    precision: Precision = "auto"
    """Of the forward and backward passes; the weights stay in fp32."""
    ema_decay: float | None = Field(default=0.9999, gt=0, lt=1)
    """Of the averaged weights, which are those that samples and the result use; null: none. Unit:
    share."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    compile: Literal["blocks"] | bool = False
    """torch.compile: `blocks` takes those that a denoiser repeats, in seconds; true the trained
    module as a whole, in minutes."""
    channels_last: bool = False
    """Keep weights in the layout that a GPU's tensor cores prefer."""
    log_every: int = Field(default=50, ge=1)
    """How often figures go to the log and `metrics.jsonl`; always before a checkpoint, and at the
    last step."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """How often a checkpoint is stored; always at the last step."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """The newest stay. Unit: checkpoints."""
    sample_every: int = Field(default=1000, ge=1)
    """How often samples are drawn, after the step's checkpoint; always at the last step."""

    @model_validator(mode="after")
    def _check(self) -> "LoopConfig":
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of gradient_accumulation "
                f"{self.gradient_accumulation}"
            )
        return self
