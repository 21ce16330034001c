"""The picture formats that decode knows, and the extensions that files of each go by."""

from typing import Final, Literal

ImageFormat = Literal["jpeg", "png", "gif", "webp", "bmp", "tiff", "avif"]

IMAGE_EXTENSIONS: Final[dict[ImageFormat, tuple[str, ...]]] = {
    "jpeg": ("jpg", "jpeg", "jpe", "jfif", "jif", "pjpeg", "pjp"),
    "png": ("png", "apng"),
    "gif": ("gif",),
    "webp": ("webp",),
    "bmp": ("bmp", "dib"),
    "tiff": ("tif", "tiff"),
    "avif": ("avif", "avifs"),
}
"""In lower case, without the dot."""

ALL_IMAGE_EXTENSIONS: Final = frozenset(
    extension for extensions in IMAGE_EXTENSIONS.values() for extension in extensions
)

ImageReason = Literal[
    "format_unsupported",
    "image_unreadable",
    "image_truncated",
    "too_many_pixels",
    "too_many_parts",  # scans, chunks, strips, runs: decoding would take too long
    "image_too_small",
    "aspect_above_max",
    "too_small_for_bucket",
    "decode_timed_out",
    "decode_out_of_memory",
    "decoder_crashed",
]
"""Why an original gives no crop, as the ledger has it."""
