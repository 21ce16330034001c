"""Which size an original is stored at: one square for all, or the bucket of its aspect."""

from pipelines.steps.download.header import shown_size
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from sd_core.model.buckets import Bucket, bucket_of


def unturned_size(width: int, height: int, orientation: int, config: ImageConfig) -> Bucket:
    """The stored size as the file has it, before it is turned upright.

    Args:
        width, height: Of the original, not yet turned, in pixels.
        orientation: EXIF's, 1 to 8.

    Raises:
        ImageRejected: `too_small_for_bucket`.
    """
    size = _stored_size(*shown_size(width, height, orientation), config)
    stored_width, stored_height = shown_size(size.width, size.height, orientation)
    return Bucket(width=stored_width, height=stored_height)


def possible_sizes(width: int, height: int, config: ImageConfig) -> list[Bucket]:
    """`unturned_size` where it is not yet known whether the original is turned.

    Raises:
        ImageRejected: `too_small_for_bucket`, either way.
    """
    found, refusals = list[Bucket](), list[ImageRejected]()
    for orientation in (1, 6):
        try:
            found.append(unturned_size(width, height, orientation, config))
        except ImageRejected as rejected:
            refusals.append(rejected)
    if not found:
        raise refusals[0]
    return found


def _stored_size(width: int, height: int, config: ImageConfig) -> Bucket:
    if config.buckets is None:
        return Bucket(width=config.size, height=config.size)
    crop = bucket_of(width, height, config.sizes)
    if crop.enlargement > config.buckets.max_enlarge:
        raise ImageRejected(
            "too_small_for_bucket",
            f"{width} x {height} would grow {crop.enlargement:.2f} times to fill"
            f" {crop.bucket.width} x {crop.bucket.height}; image.buckets.max_enlarge is"
            f" {config.buckets.max_enlarge}",
        )
    return crop.bucket
