"""What a checkout has in place of a large file that was not fetched."""

_POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_TOLD = "a Git-LFS pointer, not the file itself; fetch that one (git lfs pull)"


def is_pointer(content: bytes) -> bool:
    """Whether a file that begins so is such a pointer."""
    return content.startswith(_POINTER)
