"""Put a trained tiny model into the package: `python -m jobs.tiny.ship_model MODEL`.

MODEL is the diffusers folder that jobs/train.py wrote. The denoiser is stored in float16, which
halves it; it is loaded in float32 again.
"""

import argparse
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from jobs.tiny.loading import TINY

_DENOISER = "unet/diffusion_pytorch_model.safetensors"


def ship_model(source: Path, target: Path) -> None:
    """Copy a diffusers folder over `target`, its denoiser in float16, without its card, which
    names folders of the machine that trained it."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("README.md"))
    weights = {name: value.half() for name, value in load_file(source / _DENOISER).items()}
    save_file(weights, target / _DENOISER, metadata={"format": "pt"})


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and copy."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="the `model` folder of a training's output")
    parser.add_argument("--target", type=Path, default=TINY / "model")
    options = parser.parse_args(arguments)
    ship_model(options.model, options.target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
