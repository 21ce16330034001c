"""Which autoencoder: architectures by name, and where the weights come from."""

from typing import Any, Final, Literal

from pydantic import Field, model_validator

from sd_core.model.config import ModelConfig
from sd_core.model.precision import Precision
from sd_core.model.weights import WeightsNeed, public_reference, refuse_bare, weights_identity

AutoencoderKind = Literal["kl", "tiny", "vq"]
AUTOENCODER_CLASSES: Final[dict[str, AutoencoderKind]] = {
    "AutoencoderKL": "kl",
    "AutoencoderTiny": "tiny",
    "VQModel": "vq",
}
"""Of diffusers."""


STABLE_DIFFUSION: Final[dict[str, Any]] = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}


AUTOENCODER_ARCHITECTURES: Final[dict[str, dict[str, Any]]] = {
    "sd-v1": STABLE_DIFFUSION,
    "sd-xl": {**STABLE_DIFFUSION, "sample_size": 1024, "scaling_factor": 0.13025},
    "sd-3": {
        **STABLE_DIFFUSION,
        "sample_size": 1024,
        "latent_channels": 16,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "taesd": {"_class_name": "AutoencoderTiny"},
}
"""Configurations of known autoencoders, for random weights of their size."""


class AutoencoderConfig(ModelConfig):
    """Which autoencoder, and where its weights come from."""

    model: str
    """A reference to a diffusers folder (`preset:tiny/autoencoder`, `hub:org/name@revision/vae`,
    `/a/folder`), to TAESD's own two files' folder or to a single-file checkpoint (.safetensors);
    with `pretrained: false` a folder that holds a `config.json`, or the name of an architecture
    (`sd-v1`, `sd-xl`, `sd-3`, `taesd`)."""
    layout: str | None = None
    """Of a single file: a reference to a folder with the `config.json` that tells its sizes, where
    they are not Stable Diffusion's."""
    kind: Literal["auto", "kl", "tiny", "vq", "taesd"] = "auto"
    """`auto` reads the class from `config.json`; `taesd` is the two-file layout."""
    pretrained: bool = True
    """False: random weights of the named architecture."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of the folder."""
    precision: Precision = "auto"
    """Number format that it runs in; `auto` is bf16 on a GPU that
    computes in it, else fp32."""
    slice_size: int | None = Field(default=None, ge=1)
    """Images per pass through the network; by default 1 on a CPU (memory) and all on a GPU."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of random weights."""

    @model_validator(mode="after")
    def _check(self) -> "AutoencoderConfig":
        refuse_bare(self.model, AUTOENCODER_ARCHITECTURES, pretrained=self.pretrained)
        return self

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        if self.model in AUTOENCODER_ARCHITECTURES:
            return []
        return [WeightsNeed(f"{where}.model", self.model, self.sha256)]

    def identity(self) -> dict[str, Any]:
        """The options that change a latent, as plain JSON without secrets."""
        options: dict[str, Any] = {
            "kind": self.kind,
            "precision": self.precision,
            "slice_size": self.slice_size,
        }
        if not self.pretrained:
            options |= {"pretrained": False, "seed": self.seed}
        return options | weights_identity(self.model, self.sha256)

    def describe(self) -> str:
        """One line for people."""
        shown = public_reference(self.model)
        return shown if self.pretrained else f"{shown}, RANDOM weights of seed {self.seed}"
