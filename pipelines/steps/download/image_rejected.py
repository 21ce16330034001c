"""The one exception by which the decoder says no."""

from pipelines.rows.image_formats import ImageReason as ImageReason


class ImageRejected(Exception):
    """An original that gives no crop.

    Args:
        reason: the code that the ledger stores.
        message: what was found and what is allowed, in our own words: never bytes of the input.
        may_have_written: a decoder gave up half-way whose care with memory nobody vouches for:
            the next image needs a fresh process.
    """

    original_width: int | None = None
    """Pixels as a viewer shows it; filled in once the header has been read."""
    original_height: int | None = None
    original_format: str | None = None

    def __init__(
        self, reason: ImageReason, message: str, *, may_have_written: bool = False
    ) -> None:
        super().__init__(reason, message)
        self.reason: ImageReason = reason
        self.message = message
        self.may_have_written = may_have_written
