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
