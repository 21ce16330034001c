"""The images of a shard: each with all of its settings, or with the reason why there is none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from pipelines.prompts.notes import notes_of
from pipelines.rows.failures import describe_error, is_of_everything
from pipelines.rows.ledger import ROW_FAILED
from pipelines.run.manifest import ShardError
from pipelines.steps.generate.config import GenerateConfig, GenerationDefaults
from sd_core.model.task import Task
from sd_core.sampling.noise import derived_seed, numbered_seed
from sd_core.sampling.samplers import SamplerName
from sd_core.sampling.steps_limit import StepsLimit


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """One image to be made.

    Attributes:
        key: `{prompt_key}-{image_index}`.
        seed: The row's own, or what follows from the run's seed and the prompt.
        noise_seed: What the noise is drawn from: seed + image_index.
        strength: Null where the row starts from noise.
        notes: Settings that do nothing, of `NOTES`, by commas; null where there are none.
    """

    row: int
    key: str
    prompt_key: str
    image_index: int
    prompt: str
    negative_prompt: str
    seed: int
    noise_seed: int
    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    sampler: SamplerName
    init_key: str | None = None
    strength: float | None = None
    mask: str | None = None
    notes: str | None = None

    @property
    def is_guided(self) -> bool:
        """Whether the unconditional half is needed."""
        return self.guidance_scale > 1


@dataclass(frozen=True, kw_only=True)
class RefusedRow:
    """A row without an image."""

    row: int
    reason: str
    error_message: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """What the model can be asked for."""

    downsampling: int
    native_px: int
    max_side_px: int
    samplers: Sequence[str]
    sampler: SamplerName
    """Of rows that name none, where `generate.defaults` names none either."""
    task: Task = "text_to_image"
    steps: StepsLimit | None = None
    """Null: any number of steps."""
    embeds_guidance: bool = False
    """Whether the denoiser is told the guidance scale, and guides itself."""


class Sources(Protocol):
    """Where rows find the images that they start from."""

    def __contains__(self, key: str) -> bool: ...

    def result_size(self, key: str) -> tuple[int, int]:
        """Width and height of what is made of it, in pixels."""

    def caption(self, key: str) -> str: ...

    def mask(self, row: ImageRow) -> object:
        """Raises ValueError, with a `reason`, where the row's mask cannot be used."""


def resolve_rows(
    rows: pa.Table, config: GenerateConfig, limits: ModelLimits, sources: Sources | None = None
) -> Iterator[ImageRow | RefusedRow]:
    """Fill in the defaults and hold every row against the model and its source, in order.

    Args:
        rows: Of `expand_rows`.
        sources: Of `generate.init`, where it is configured.
    """
    names = [name for name in rows.column_names if not name.startswith("source_")]
    for batch in rows.select(names).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            found = _resolve(row, config, limits, sources)
            if isinstance(found, ImageRow) and found.init_key is not None:
                found = _with_readable_source(found, sources)
            if isinstance(found, ImageRow):
                found = _with_noise(found, row["seed"], run_seed=config.defaults.seed)
            yield found


def check_sources(resolved: Sequence[ImageRow | RefusedRow]) -> None:
    """Raise `ShardError` where no row's source could be read: that is no row's fault."""
    failed = [r for r in resolved if isinstance(r, RefusedRow) and r.reason == ROW_FAILED]
    if failed and not any(isinstance(row, ImageRow) for row in resolved):
        raise ShardError(f"generate.init: {failed[0].error_message}")


def _with_readable_source(image: ImageRow, sources: Sources | None) -> ImageRow | RefusedRow:
    """As `_with_source`; a source that a library refuses is its row's failure."""
    try:
        return _with_source(image, sources)
    except Exception as error:
        if is_of_everything(error):
            raise
        message = describe_error(error)
        return RefusedRow(row=image.row, reason=ROW_FAILED, error_message=message)


def _resolve(
    row: dict[str, Any], config: GenerateConfig, limits: ModelLimits, sources: Sources | None
) -> ImageRow | RefusedRow:
    if row["reason"] is not None:
        return RefusedRow(row=row["row"], reason=row["reason"], error_message=row["error_message"])
    defaults = config.defaults

    def own(name: str, default: Any) -> Any:
        return default if row[name] is None else row[name]

    width, height = limits.native_px, limits.native_px
    starts = row["init_key"] is not None
    if limits.task == "upscaling" and sources is not None and row["init_key"] in sources:
        width, height = sources.result_size(row["init_key"])
    image = ImageRow(
        row=row["row"],
        key=row["key"],
        prompt_key=row["prompt_key"],
        image_index=row["image_index"],
        prompt=row["prompt"] or "",
        negative_prompt=own("negative_prompt", defaults.negative_prompt),
        seed=0,
        noise_seed=0,  # both when the prompt is settled
        num_inference_steps=own("num_inference_steps", defaults.num_inference_steps),
        guidance_scale=own("guidance_scale", defaults.guidance_scale),
        width=own("width", defaults.width or width),
        height=own("height", defaults.height or height),
        sampler=own("sampler", defaults.sampler or limits.sampler),
        init_key=row["init_key"],
        strength=own("strength", defaults.strength)
        if starts and limits.task != "upscaling"
        else None,
        mask=row["mask"],
        notes=",".join(_notes(row, defaults, limits)) or None,
    )
    for check in _CHECKS:
        fault = check(image, limits)
        if fault is not None:
            reason, message = fault
            return RefusedRow(row=image.row, reason=reason, error_message=message)
    return image


def _notes(
    row: dict[str, Any], defaults: GenerationDefaults, limits: ModelLimits
) -> tuple[str, ...]:
    return notes_of(
        row,
        defaults,
        enlarges=limits.task == "upscaling",
        embeds_guidance=limits.embeds_guidance,
    )


def _with_source(image: ImageRow, sources: Sources | None) -> ImageRow | RefusedRow:
    """The row with its source's caption where it has no prompt: a variation of that image."""

    def refused(reason: str, message: str) -> RefusedRow:
        return RefusedRow(row=image.row, reason=reason, error_message=message)

    key = str(image.init_key)
    if sources is None:
        return refused("init_missing", "generate.init names no run to start from")
    if key not in sources:
        return refused("init_missing", "the run of generate.init has no latents of this key")
    width, height = sources.result_size(key)
    if (image.width, image.height) != (width, height):
        return refused("size_invalid", f"of the image to start from only {width}x{height} is made")
    try:
        sources.mask(image)
    except ValueError as error:
        return refused(getattr(error, "reason", "mask_invalid"), str(error))
    if image.prompt.strip():
        return image
    return replace(image, prompt=sources.caption(key))


def _with_noise(image: ImageRow, seed: int | None, *, run_seed: int) -> ImageRow:
    """The row with its noise: of its own seed, or of its prompt (its source's caption, where it
    has none) and the run's seed; whatever its key and the other settings are."""
    seed = derived_seed(image.prompt, run_seed=run_seed) if seed is None else seed
    return replace(image, seed=seed, noise_seed=numbered_seed(seed, image.image_index))


def _size_fault(image: ImageRow, limits: ModelLimits) -> tuple[str, str] | None:
    for name, side in (("width", image.width), ("height", image.height)):
        if side % limits.downsampling or not 0 < side <= limits.max_side_px:
            return "size_invalid", (
                f"{name}: found {side}, allowed are multiples of {limits.downsampling} up to "
                f"{limits.max_side_px}"
            )
    return None


def _sampler_fault(image: ImageRow, limits: ModelLimits) -> tuple[str, str] | None:
    if image.sampler in limits.samplers:
        return None
    allowed = ", ".join(limits.samplers)
    return "sampler_unknown", (
        f"found {str(image.sampler)[:40]!r}, allowed are {allowed}; prompts.samplers may name one "
        "to take in its place"
    )


def _steps_fault(image: ImageRow, limits: ModelLimits) -> tuple[str, str] | None:
    if limits.steps is None:
        return None
    fault = limits.steps.fault(
        image.sampler,
        image.num_inference_steps,
        strength=image.strength,
        is_masked=image.mask is not None,
    )
    return None if fault is None else ("num_inference_steps_invalid", fault)


def _mask_fault(image: ImageRow, limits: ModelLimits) -> tuple[str, str] | None:
    if image.mask is not None and image.init_key is None:
        return "init_missing", "a mask needs the init_key of the image that it is laid on"
    return None


def _task_fault(image: ImageRow, limits: ModelLimits) -> tuple[str, str] | None:
    if limits.task == "text_to_image":
        return None
    if image.init_key is None:
        return "init_missing", f"the model is one of {limits.task}: a row needs an init_key"
    if limits.task == "inpainting" and image.mask is None:
        return "mask_invalid", "the model is one of inpainting: a row needs a mask"
    if limits.task == "upscaling" and image.mask is not None:
        return "mask_invalid", "the model is one of upscaling: it enlarges whole images"
    return None


_CHECKS: Sequence[Callable[[ImageRow, ModelLimits], tuple[str, str] | None]] = (
    _size_fault,
    _sampler_fault,
    _steps_fault,
    _mask_fault,
    _task_fault,
)
