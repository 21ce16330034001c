"""The curate job that is measured: photographs in any number, with the tiny or the real models."""

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.workflows.curate_config import CurateConfig

Models = Literal["tiny", "real"]

_MODELS: dict[Models, dict[str, Any]] = {
    "tiny": {
        "image": {"size": 64},
        "score": {
            "clip": {"name": "preset:tiny/clip"},
            "aesthetic_v1": {"weights": "preset:tiny/aesthetic.safetensors"},
        },
        "encode": {
            "autoencoder": {"model": "preset:tiny/autoencoder"},
            "text_encoder": {"clip": {"name": "preset:tiny/clip"}},
        },
    },
    "real": {  # models of real sizes with random weights: nothing is looked up
        "image": {"size": 256},  # at 512 px TAESD alone takes seconds an image on one core
        "score": {"clip": {"name": "ViT-B-32", "pretrained": False}},
        "encode": {
            "autoencoder": {"model": "taesd", "pretrained": False},
            "text_encoder": {"clip": {"name": "ViT-B-32", "pretrained": False}},
        },
    },
}


def write_photo_list(path: Path, *, url: str, photos: Path, num_rows: int) -> None:
    """A list of photographs served by `timed_server`, each row's bytes different.

    Raises:
        FileNotFoundError: no photographs in the folder `photos`.
    """
    names = sorted(file.name for file in photos.glob("*.jpg"))
    if not names:
        raise FileNotFoundError(f"no .jpg photographs in {photos}; give another --photos")
    numbers = range(num_rows)
    urls = [f"{url}/{number}/{names[number % len(names)]}" for number in numbers]
    captions = [f"photograph number {number}" for number in numbers]
    pq.write_table(pa.table({"URL": urls, "TEXT": captions}), path)


def curate_settings(
    *, models: Models, url_list: Path, output: Path, rows_per_shard: int
) -> dict[str, Any]:
    """The configuration as plain values; every row is kept, so every step sees every row."""
    return {
        "output": str(output),
        "source": {"path": str(url_list)},
        "plan": {"rows_per_shard": rows_per_shard},
        "download": {"allow_networks": ["127.0.0.0/8"]},
        **_MODELS[models],
    }


def curate_config(settings: dict[str, Any]) -> CurateConfig:
    """The validated configuration."""
    return CurateConfig.model_validate_json(json.dumps(settings))
