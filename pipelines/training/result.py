"""What a finished training leaves: a diffusers folder with its card, and result.json last."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipelines.run.store import RunStore
from pipelines.training.checkpoints import put_folder
from pipelines.training.config import TrainConfig
from pipelines.training.image_set import ImageSet
from pipelines.training.model_card import write_model_card
from sd_core.cache.latent_cache import LatentCache
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.redact import redact_url
from sd_core.training.denoiser_task import DENOISER
from sd_core.training.trainer import Trainer

RESULT_FILE = "result.json"
MODEL_FOLDER = "model"


def read_result(store: RunStore) -> dict[str, Any] | None:
    """result.json, which is written when everything else is; None before."""
    try:
        tree: dict[str, Any] = json.loads(store.read_bytes(RESULT_FILE))
    except FileNotFoundError:
        return None
    return tree


def publish_model(
    store: RunStore,
    config: TrainConfig,
    model: LatentDiffusion,
    trainer: Trainer,
    caches: Sequence[LatentCache],
    *,
    fingerprint: str,
) -> None:
    """Store the model (its averaged weights) as a diffusers folder, then result.json."""
    with torch.no_grad():
        model.denoiser.load_state_dict(dict(trainer.averaged_weights(DENOISER)), strict=False)
    with tempfile.TemporaryDirectory(prefix="model-") as scratch:
        folder = Path(scratch)
        frozen = model.denoiser.eval().to(memory_format=torch.contiguous_format)
        save_latent_diffusion(replace(model, denoiser=frozen), folder)
        data = describe_data(config, caches)
        card = write_model_card(config, data=data, steps=trainer.step, folder=folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
        result = {"step": trainer.step, "fingerprint": fingerprint, "data": data}
        publish_folder(store, folder, result)


def publish_folder(store: RunStore, folder: Path, result: Mapping[str, object]) -> None:
    """Store a local folder as the model, then result.json with the digests of its files.

    An earlier result.json goes first, so that none ever stands beside files that are not its own.
    """
    store.delete(RESULT_FILE)
    files = put_folder(store, folder, MODEL_FOLDER)
    tree = {**result, "files": files}
    store.replace(RESULT_FILE, (json.dumps(tree, indent=1, sort_keys=True) + "\n").encode())


def describe_data(config: TrainConfig, caches: Sequence[LatentCache]) -> list[Mapping[str, object]]:
    """Each cache: where, how many rows, its share, and the digest of its shards."""
    total = sum(data.weight for data in config.data)
    return [
        {
            "path": redact_url(data.path),
            "rows": cache.num_rows,
            "share": data.weight / total,
            "sha256": cache_sha256(cache),
        }
        for data, cache in zip(config.data, caches, strict=True)
    ]


def cache_sha256(cache: LatentCache) -> str:
    """Hex sha256 over the spec and the digests of the shards, in their order."""
    lines = "".join(f"{shard.sha256}  {shard.num_rows}\n" for shard in cache.shards)
    return hashlib.sha256(cache.spec.to_json() + lines.encode()).hexdigest()


def image_set_sha256(images: ImageSet) -> str:
    """Hex sha256 over the digests of tars and ledgers, and which of their kept rows are in it."""
    lines = "".join(
        f"{shard.tar.sha256}  {shard.ledger.sha256}  {shard.first_row}  {shard.num_rows}\n"
        for shard in images.shards
    )
    return hashlib.sha256(f"{images.resolution_px}\n{lines}".encode()).hexdigest()
