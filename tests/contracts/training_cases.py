"""A training of a few thousand weights on a cache of drawn pictures, for the contract tests."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from jobs import train
from tests.sd_core.training.cases import SETTINGS, encoded_samples, make_model, write_cache

ROOT = Path(__file__).resolve().parents[2]


def make_cache(folder: Path, *, rows: int = 24) -> Path:
    """A run's `latents` folder made with the tiny presets."""
    model = make_model()
    return write_cache(folder, model, encoded_samples(model, rows))


def write_config(path: Path, latents: Path, output: Path, **changes: Any) -> Path:
    """A training configuration; `section__field=value` changes it further."""
    tree: dict[str, Any] = {
        "output": str(output),
        "data": [{"path": str(latents)}],
        "model": {
            "autoencoder": {"model": "preset:tiny/autoencoder"},
            "text_encoder": {"clip": {"name": "preset:tiny/clip"}},
            "denoiser": {"settings": SETTINGS, "precision": "fp32"},
        },
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2, "schedule": "cosine"},
        "loop": {
            "steps": 20,
            "batch_size": 8,
            "precision": "fp32",
            "log_every": 1,
            "checkpoint_every": 4,
            "sample_every": 1000,
            "ema_decay": 0.9,
        },
        "order": {"num_streams": 4},
        "engine": {"runner": "local", "torch_threads": 1},
        "peak_tflops": 0.1,
    }
    return write_changed(path, tree, changes)


def write_changed(path: Path, tree: dict[str, Any], changes: dict[str, Any]) -> Path:
    """A configuration as a file, changed by `section__field=value`."""
    for name, value in changes.items():
        *sections, field = name.split("__")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[field] = value
    path.write_text(yaml.safe_dump(tree))
    return path


def run(folder: Path, latents: Path, **changes: Any) -> int:
    """Train into `out` of a folder, in this process; gives the exit code."""
    config = write_config(folder / "config.yaml", latents, folder / "out", **changes)
    return train.main(["--config", str(config)])


def weights_digests(output: Path) -> dict[str, str]:
    """The sha256 of every file of weights of the trained model."""
    model = output / "model"
    return {
        path.relative_to(model).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(model.rglob("*.safetensors"))
    }


def losses(output: Path) -> list[float]:
    """The loss of each step, from metrics.jsonl."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    trees = [json.loads(line) for line in lines]
    assert [tree["step"] for tree in trees] == list(range(1, len(trees) + 1))
    return [tree["loss"] for tree in trees]
