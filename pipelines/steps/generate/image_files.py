"""The bytes of an image file, with the parameters that other programs read out of it."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from pipelines.steps.generate.config import ImageFileConfig
from pipelines.steps.generate.rows import ImageRow
from sd_core.sampling.samplers import SAMPLERS

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286
_CUT = "..."
# In 16-bit units. A segment of JPEG holds 65,533 bytes, EXIF's own structure among them; readers of
# PNG and WebP refuse text of more than a few million bytes.
_ROOM = {"jpg": 32_700, "png": 1 << 20, "webp": 1 << 20}


def encode_image(
    pixels: npt.NDArray[np.uint8], config: ImageFileConfig, *, parameters: str | None
) -> bytes:
    """(H, W, 3) uint8 RGB as a file's bytes; the same pixels and text give the same bytes.

    The parameters go into a text chunk of PNG, and into EXIF's user comment of JPEG and WebP; what
    does not fit is cut as `fit_parameters` does it.
    """
    image = Image.fromarray(pixels)
    if parameters is not None:
        parameters = fit_parameters(parameters, config)
    stream = io.BytesIO()
    if config.format == "png":
        text = PngImagePlugin.PngInfo()
        if parameters is not None:
            text.add_text("parameters", parameters)
        image.save(stream, "PNG", pnginfo=text, compress_level=config.compress_level)
        return stream.getvalue()
    exif = Image.Exif()
    if parameters is not None:
        comment = b"UNICODE\x00" + parameters.encode("utf-16-be", "surrogatepass")
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = comment
    if config.format == "webp":
        lossless = config.quality == 100
        image.save(stream, "WEBP", quality=config.quality, lossless=lossless, exif=exif)
    else:
        image.save(stream, "JPEG", quality=config.quality, subsampling=0, exif=exif)
    return stream.getvalue()


def fit_parameters(parameters: str, config: ImageFileConfig) -> str:
    """The text as it fits into a file: of prompts too long for it, their beginning and `...`.

    The last line, the settings, stays whole.
    """
    units = parameters.encode("utf-16-be", "surrogatepass")
    room = 2 * _ROOM[config.format]
    if len(units) <= room:
        return parameters
    prompts, _, settings = parameters.rpartition("\n")
    ending = f"{_CUT}\n{settings}"
    room -= len(ending.encode("utf-16-be", "surrogatepass"))
    kept = prompts.encode("utf-16-be", "surrogatepass")[: max(0, room)]
    return kept.decode("utf-16-be", "ignore") + ending


def describe_parameters(row: ImageRow, *, model: str, model_sha256: str, version: str) -> str:
    """Prompt and settings in the text form that A1111 writes and ComfyUI reads.

    `Seed` is what the noise was drawn from: the one that gives the same noise elsewhere, on the
    CPU.
    """
    fields: Sequence[tuple[str, object]] = (
        ("Steps", row.num_inference_steps),
        ("Sampler", SAMPLERS[row.sampler].label or row.sampler),
        ("CFG scale", f"{row.guidance_scale:g}"),
        ("Seed", row.noise_seed),
        ("Size", f"{row.width}x{row.height}"),
        ("Model hash", model_sha256[:10]),
        ("Model", _quoted(model)),
        *([("Denoising strength", f"{row.strength:g}")] if row.strength is not None else []),
        ("RNG", "CPU"),
        ("Key", row.key),
        ("Version", version),
    )
    lines = [row.prompt]
    if row.negative_prompt:
        lines.append(f"Negative prompt: {row.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in fields))
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return f'"{text}"' if any(sign in text for sign in ",:\n") else text
