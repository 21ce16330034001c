"""What program made a run: the versions of everything that can change its bytes."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = (
    "latent-foundry",
    "torch",
    "ray",
    "open_clip_torch",
    "diffusers",
    "transformers",
    "pyarrow",
    "webdataset",
    "img2dataset",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
    "numpy",
)


def describe_program() -> dict[str, Any]:
    """Versions for run.json; a package that is not installed is null."""
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        }
    }


def program_version() -> str:
    """Our own, or "unknown" where the project is not installed."""
    return _version("latent-foundry") or "unknown"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
