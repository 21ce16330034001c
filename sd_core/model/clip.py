"""Any open_clip model: loaded, fed from the device, and scored with in one forward pass."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from sd_core.model.clip_names import check_open_clip_name, trained_preprocess
from sd_core.model.clip_tokenizer import open_clip_tokenizer
from sd_core.model.config import ModelConfig
from sd_core.model.memory import aligned, place_module
from sd_core.model.precision import Precision, model_dtype, seeded
from sd_core.model.resample import (
    CropGrid,
    OriginalSize,
    center_crop,
    crop_grid,
    resample_crops,
    resize,
)
from sd_core.model.weights import (
    WeightsError,
    WeightsNeed,
    loads_weights,
    public_reference,
    resolve_weights,
    weights_identity,
    weights_sha256,
)
from sd_core.plain_json import parse_json


class ClipConfig(ModelConfig):
    """Which CLIP, and where its weights come from."""

    name: str
    """An open_clip model name (`ViT-L-14-quickgelu`), or a reference to a folder that open_clip
    reads (`preset:tiny/clip`, `hub:org/name@revision`, `/a/folder`)."""
    pretrained: str | Literal[False] | None = None
    """A tag of open_clip's table (`openai`), or false for random weights. The tag also says how
    the weights were trained: activation, mean, standard deviation, interpolation."""
    checkpoint: str | None = None
    """A reference to the checkpoint file, instead of where open_clip's table says."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected sha256 of the checkpoint file, or of the folder."""
    precision: Precision = "auto"
    """Number format that it runs in; `auto` is bf16 on a GPU that
    computes in it, else fp32."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of random weights."""

    @property
    def is_folder(self) -> bool:
        """Whether `name` refers to a folder rather than to open_clip's own list."""
        return ":" in self.name or self.name.startswith(("/", ".", "~"))

    @model_validator(mode="after")
    def _check(self) -> "ClipConfig":
        if self.is_folder:
            if self.pretrained is not None or self.checkpoint is not None:
                raise ValueError(
                    f"name {self.name!r} is a folder with its own weights; leave pretrained and "
                    "checkpoint out"
                )
            return self
        if self.checkpoint is not None and self.pretrained is False:
            raise ValueError("pretrained is false (random weights), yet a checkpoint is named")
        if self.checkpoint is None and self.pretrained is None:
            raise ValueError(f"pretrained must be set for {self.name}: a tag, or false")
        check_open_clip_name(self.name, self.pretrained)
        return self

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        if self.is_folder:
            return [WeightsNeed(f"{where}.name", self.name, self.sha256)]
        if self.pretrained is False:
            return []
        ref = self.checkpoint or f"open_clip:{self.name}/{self.pretrained}"
        return [WeightsNeed(f"{where}.checkpoint", ref, self.sha256)]

    def identity(self) -> dict[str, Any]:
        """The options that change an embedding, as plain JSON without secrets."""
        options: dict[str, Any] = {"precision": self.precision}
        needs = self.weight_needs("")
        if not self.is_folder:
            options |= {"name": self.name, "pretrained": self.pretrained}
        if not needs:
            return options | {"seed": self.seed}
        return options | weights_identity(needs[0].ref, self.sha256)

    def describe(self) -> str:
        """One line for people."""
        if self.is_folder:
            return public_reference(self.name)
        if self.pretrained is False:
            return f"{self.name}, RANDOM weights of seed {self.seed}"
        source = f" from {public_reference(self.checkpoint)}" if self.checkpoint else ""
        return f"{self.name}, {self.pretrained or 'own checkpoint'}{source}"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A loaded CLIP in eval mode, with what its inputs must look like."""

    model: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    name: str
    image_size: int
    resize_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    embed_dim: int
    context_length: int
    device: torch.device
    dtype: torch.dtype
    weights_sha256: str
    """Of the float32 weights, whatever precision they run in."""

    @cached_property
    def _colours(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (3, 1, 1) of [0, 255], where it computes."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return tuple((one.view(3, 1, 1) * 255).to(self.device) for one in (mean, std))  # type: ignore[return-value]

    def grid(self, originals: Sequence[OriginalSize], *, side: int) -> CropGrid | None:
        """How centre crops of this side are resampled, so that the result is what open_clip makes
        of their originals, to a part of a pixel; None where it is resized as any image."""
        follows = side != self.image_size and self.resize_mode == "shortest"
        if not follows or self.interpolation != "bicubic":
            return None
        return crop_grid(originals, side=side, size=self.image_size)

    def preprocess(self, images: Tensor, *, grid: CropGrid | None = None) -> Tensor:
        """Resize, centre-crop and normalise on the images' device, as open_clip's `preprocess`.

        Args:
            images: (B, 3, H, W) uint8 RGB.
            grid: Where they are centre crops: of `grid`.

        Returns:
            (B, 3, image_size, image_size) float32.
        """
        if grid is not None:
            pixels = resample_crops(images, grid)
        else:
            pixels = resize(images, self.image_size, self.interpolation, self.resize_mode)
            pixels = center_crop(pixels, self.image_size).float()
        mean, std = self._colours
        return pixels.sub_(mean).div_(std)

    @torch.inference_mode()
    def encode_images(
        self,
        images: Tensor,
        *,
        originals: Sequence[OriginalSize] | None = None,
        grid: CropGrid | None = None,
    ) -> Tensor:
        """Embed (B, 3, H, W) uint8 RGB images: (B, embed_dim) float32, L2-normalised.

        Args:
            originals: Of centre crops whose `grid` was not made ahead.
        """
        images = images.to(self.device)
        height, width = images.shape[-2:]
        if grid is None and originals is not None and height == width:
            grid = self.grid(originals, side=width)
        pixels = self.preprocess(images, grid=grid and grid.to(self.device)).to(self.dtype)
        embeddings = self.model.encode_image(aligned(pixels))  # type: ignore[operator]
        return F.normalize(embeddings.float(), dim=-1)

    @torch.inference_mode()
    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Embed captions: (B, embed_dim) float32, L2-normalised; long ones are truncated."""
        input_ids = self.tokenizer(list(captions)).to(self.device)
        return F.normalize(self.model.encode_text(input_ids).float(), dim=-1)  # type: ignore[operator]


@loads_weights
def load_clip(config: ClipConfig, *, device: str | torch.device) -> Clip:
    """Build the model that `config` names and load its weights.

    Raises:
        WeightsError: the weights cannot be had, have another sha256, or do not fit the model.
    """
    import open_clip

    with quiet_open_clip(), seeded(config.seed):
        name, checkpoint = _locate_model(config)
        try:
            model = open_clip.create_model(
                name,
                pretrained=checkpoint,
                pretrained_text=False,
                force_preprocess_cfg=trained_preprocess(config.name, config.pretrained),
                weights_only=True,
            )
        except (RuntimeError, ValueError, OSError, KeyError, AssertionError) as error:
            raise WeightsError(f"{config.name}: open_clip cannot load it: {error}") from error
        tokenizer = open_clip_tokenizer(name)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    if preprocess["mode"] != "RGB":
        found = preprocess["mode"]
        raise WeightsError(f"{config.name}: wants {found!r} images; allowed: RGB")
    model.eval().requires_grad_(False)
    digest = weights_sha256(model)
    with torch.inference_mode():
        embed_dim = int(model.encode_text(tokenizer([""])).shape[-1])
    dtype = model_dtype(config.precision, device)
    size = preprocess["size"]
    side = size if isinstance(size, int) else size[0]
    return Clip(
        model=place_module(model, device=device, dtype=dtype),
        tokenizer=tokenizer,
        name=config.name,
        image_size=side,
        resize_mode=preprocess["resize_mode"],
        interpolation=preprocess["interpolation"],
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        embed_dim=embed_dim,
        context_length=int(tokenizer.context_length),
        device=torch.device(device),
        dtype=dtype,
        weights_sha256=digest,
    )


@loads_weights
def load_clip_tokenizer(config: ClipConfig) -> Any:
    """The tokenizer of the model that `config` names, without the model.

    Raises:
        WeightsError: the folder that has it cannot be had; its vocabulary is not there or damaged.
    """
    with quiet_open_clip():
        name, _ = _locate_model(config) if config.is_folder else (config.name, None)
        return open_clip_tokenizer(name)


def clip_embed_dim(config: ClipConfig) -> int | None:
    """Length of its embeddings as its configuration says; None where it says nothing.

    Raises:
        WeightsError: the folder cannot be had.
    """
    if config.is_folder:
        path = resolve_weights(config.name, where="clip.name") / "open_clip_config.json"
        told = parse_json(path.read_text(encoding="utf-8"))["model_cfg"] if path.is_file() else {}
    else:
        import open_clip

        told = open_clip.get_model_config(config.name) or {}
    return told.get("embed_dim")


@contextmanager
def quiet_open_clip() -> Iterator[None]:
    """Keep open_clip from writing to (and configuring) the root logger; errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _locate_model(config: ClipConfig) -> tuple[str, str | None]:
    needs = config.weight_needs("clip")
    if not needs:
        return config.name, None
    path = resolve_weights(needs[0].ref, sha256=config.sha256, where=needs[0].where)
    if not config.is_folder:
        return config.name, str(path)
    if not any(path.glob("*.safetensors")):
        raise WeightsError(f"clip.name: {path} holds no .safetensors file")
    return f"local-dir:{path}", None
