"""How images are made of prompts: the model, defaults for rows without their own, the files."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from pipelines.config import StorageOptions
from pipelines.rows.image_facts import ImageFactsConfig
from sd_core.cache.formats import CacheFormatName
from sd_core.model.config import ModelConfig
from sd_core.model.latent_diffusion import LatentDiffusionConfig
from sd_core.model.lora import LoraConfig
from sd_core.model.weights import WeightsError, WeightsNeed
from sd_core.sampling.folder_traits import folder_traits
from sd_core.sampling.image_conditions import DEFAULT_NOISE_LEVEL
from sd_core.sampling.noise import NOISE_VERSION
from sd_core.sampling.preparation import Compile
from sd_core.sampling.samplers import SamplerName

_CPU_ROWS: Final = 8


class GenerationDefaults(ModelConfig):
    """Settings of a row that has none of its own."""

    negative_prompt: str = ""
    """What guidance leads away from."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """The run's: of it and of its prompt the noise of a row without a seed follows."""
    num_images: int = Field(default=1, ge=1, le=10_000)
    """Images of each row."""
    num_inference_steps: int = Field(default=30, ge=1, le=10_000)
    """Steps of the sampler."""
    guidance_scale: float = Field(default=7.5, ge=0)
    """Up to 1 guides nothing and halves the work. Unit: factor."""
    width: int | None = Field(default=None, ge=1)
    """Of the image; null takes the size that the model was made for."""
    height: int | None = Field(default=None, ge=1)
    """As `width`."""
    sampler: SamplerName | None = None
    """Null: that of the model folder's own scheduler, as it is set up there; `dpmpp_2m` where no
    folder names one."""
    strength: float = Field(default=0.8, ge=0, le=1)
    """Of rows that start from an image: 0 leaves it as it is, 1 keeps next to nothing. Unit:
    share."""


class ImageFileConfig(ModelConfig):
    """How the images are stored."""

    format: Literal["png", "webp", "jpg"] = "png"
    """Of the image files; png is lossless."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of JPEG and WebP; 100 makes WebP lossless. Unit: number."""
    compress_level: int = Field(default=4, ge=0, le=9)
    """Of PNG: 0 is fast, 9 is small. Unit: number."""
    parameters: bool = True
    """Write prompt and settings into the file, where A1111 and ComfyUI look for them."""


class StoredLatentsConfig(ModelConfig):
    """What of an image goes into the latent cache."""

    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored latents and embeddings."""
    format: CacheFormatName = "webdataset"
    """Tars that WebDataset reads, or Parquet; the same rows and values in either."""
    prompt_embeds: bool = True
    """Store text embeddings beside the token ids."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Of the images whose latents are kept, as [width, height]; empty: the model's own alone. The
    cache is then one of several sizes. Unit: pixels."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = [list(size) for size in self.sizes if any(side < 8 or side % 4 for side in size)]
        if wrong:
            raise ValueError(f"sizes {wrong}: each side is a multiple of 4, and at least 8")
        return self


class InitConfig(ModelConfig):
    """Where rows with an `init_key` find the image that they start from."""

    path: str = Field(min_length=1)
    """A curated or generated run, an absolute path or an fsspec URL: its latent cache, or for a
    model of upscaling its stored images."""
    masks: str | None = None
    """A folder; a row's `mask` names a file in it, whose white is painted anew. A box
    `[left, top, right, bottom]` in pixels needs none."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """Passed to fsspec; may hold secrets, so it is never stored."""


class RefinerConfig(ModelConfig):
    """A second model that takes the last of the noise, as Stable Diffusion XL's refiner does."""

    model: LatentDiffusionConfig
    switch_at: float = Field(default=0.8, gt=0, lt=1)
    """Where it takes over: diffusers' `denoising_end` of the first model, and `denoising_start` of
    this one. Unit: share."""
    aesthetic_score: float = Field(default=6.0, ge=0, le=10)
    """What it is told that the image is worth. Unit: LAION's aesthetic score."""
    negative_aesthetic_score: float = Field(default=2.5, ge=0, le=10)
    """What guidance leads away from. Unit: LAION's aesthetic score."""

    def identity(self) -> dict[str, Any]:
        """The options that change an image, as plain JSON without secrets."""
        return {**self.model_dump(mode="json", exclude={"model"}), "model": self.model.identity()}


class GenerateConfig(ModelConfig):
    """What `generate` needs beside the prompts."""

    model: LatentDiffusionConfig
    loras: list[LoraConfig] = Field(default_factory=list)
    """Added to the model's weights one after another; safetensors only."""
    refiner: RefinerConfig | None = None
    """Null: the model finishes its images itself."""
    defaults: GenerationDefaults = GenerationDefaults()
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    """Lin et al. take 0.7 with zero terminal SNR. Unit: share."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = 8
    """Images that are denoised at once, always as many: part of the result's last bit. `auto`: 32
    on a GPU, or half of that as often as its memory is too small; 8 on a CPU."""
    max_side_px: int = Field(default=2048, ge=8, le=16_384)
    """Rows that ask for more are refused."""
    image: ImageFileConfig = ImageFileConfig()
    latents: StoredLatentsConfig | None = None
    """Keep the latents too, as a cache that training mixes in."""
    init: InitConfig | None = None
    noise_level: int = Field(default=DEFAULT_NOISE_LEVEL, ge=0)
    """Of a model of upscaling: the timestep of the noise that is put on the image; more invents
    more. Unit: timestep."""
    facts: ImageFactsConfig = ImageFactsConfig()
    """What is measured on the images' pixels."""
    compile: Compile = False
    """torch.compile: `blocks` takes those that the denoiser repeats, in seconds; true the denoiser
    and the decoder as a whole, in minutes for each size, for long runs on a GPU."""
    cuda_graphs: bool = False
    """Record the denoiser's work on a GPU once for each size and replay it: for small batches,
    whose kernels take longer to start than to run."""
    channels_last: bool = False
    """Keep weights in the layout that a GPU's tensor cores prefer."""
    encode_threads: int | None = Field(default=None, ge=1, le=64)
    """Threads that write the image files' bytes; null takes as many as there are cores, up to
    8."""

    @property
    def rows_at_once(self) -> int:
        """The batch size, where a worker has not found it."""
        return _CPU_ROWS if self.batch_size == "auto" else self.batch_size

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        needs = self.model.weight_needs(f"{where}.model")
        for number, lora in enumerate(self.loras):
            needs += lora.weight_needs(f"{where}.loras.{number}")
        if self.refiner is not None:
            needs += self.refiner.model.weight_needs(f"{where}.refiner.model")
        return needs

    def describe_models(self) -> Any:
        """What run.json says of the model."""
        models = [self.model, *([] if self.refiner is None else [self.refiner.model])]
        return ", refined by ".join(model.describe() for model in models)

    def identity(self) -> dict[str, Any]:
        """The options that change an image, as plain JSON without secrets."""
        apart = {"model", "loras", "refiner", "encode_threads", "init", "facts"}
        init = None if self.init is None else self.init.model_dump(exclude={"storage_options"})
        options = self.model_dump(mode="json", exclude=apart)
        if not self.cuda_graphs:  # options that came later
            del options["cuda_graphs"]
        if self.latents is not None and not self.latents.sizes:
            del options["latents"]["sizes"]
        return {
            "noise": NOISE_VERSION,
            **options,
            **self._sampling_identity(options["defaults"]),
            "model": self.model.identity(),
            "loras": [lora.identity() for lora in self.loras],
            **({} if self.refiner is None else {"refiner": self.refiner.identity()}),
            "init": init,
            **self.facts.identity(),
        }

    def _sampling_identity(self, defaults: dict[str, Any]) -> dict[str, Any]:
        """The sampler that null means, and what earlier versions passed over in the folder."""
        try:
            traits = folder_traits(self.model)
        except WeightsError:
            return {}  # nothing is there to be sampled with
        named = {**defaults, "sampler": defaults["sampler"] or traits.sampler}
        more = {"model_folder": list(traits.passed_over)} if traits.passed_over else {}
        return {"defaults": named, **more}
