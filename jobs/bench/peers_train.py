"""Training and reading of the tiny model's cache, beside accelerate, webdataset and datasets."""

import contextlib
import importlib
import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jobs.bench.peer_part import PeerResult, PeersBench, in_turns
from jobs.bench.train import collated_batches, dataset_of, silent_trainer, train_models
from jobs.bench.train_cache import write_random_cache
from sd_core.cache.latent_cache import LatentCache
from sd_core.cache.latents import sample_posterior
from sd_core.training.prefetch import feed

_BATCH = 32
_STEPS = 20
_TRAINING_ROWS = 512
_READING_ROWS = 4096
_MIN_WITH_NOISE = 6000
_CPU = torch.device("cpu")
Pairs = Iterator[tuple[Tensor, Tensor]]
"""Moments and embeddings of a batch, float32."""


def measure_training(bench: PeersBench) -> list[PeerResult]:
    """Steps of the tiny UNet, batch 32, on a CPU: ours from a cache on disk, with its averaged
    weights; the others' without any, from memory or by webdataset."""
    steps, model = bench.sized(_STEPS), train_models("tiny", _CPU)
    with (
        tempfile.TemporaryDirectory(prefix="bench-peers-") as folder,
        contextlib.ExitStack() as stack,
    ):
        cache = write_random_cache(Path(folder), model=model, rows=_TRAINING_ROWS)
        trainer = silent_trainer(model, device=_CPU, batch_size=_BATCH, steps=10**9)
        batches = stack.enter_context(feed(collated_batches(cache, batch_size=_BATCH), _CPU))
        loops = {
            "accelerate, from memory": _loop(_in_memory(cache)),
            "accelerate with webdataset": _loop(_webdataset(cache)),
        }
        seconds = in_turns(
            {
                "ours": lambda: trainer.run(batches, until=trainer.step + steps),
                **{name: partial(run, steps) for name, run in loops.items()},
            },
            repeats=bench.repeats,
        )
    return [
        PeerResult(
            part="training",
            peer=name if _accelerate() is not None else name.replace("accelerate", "plain torch"),
            unit="images",
            amount=steps * _BATCH,
            our_seconds=seconds["ours"],
            peer_seconds=seconds[name],
            min_ratio=1.0,
        )
        for name in loops
    ]


def _accelerate() -> Any:
    if importlib.util.find_spec("accelerate") is None:
        return None
    return importlib.import_module("accelerate").Accelerator(cpu=True)


def _loop(pairs: Pairs) -> Callable[[int], None]:
    """The loop of diffusers' `train_text_to_image.py`, less its averages, over made batches."""
    build: Any = importlib.import_module("diffusers").DDPMScheduler
    denoiser: nn.Module = train_models("tiny", _CPU).denoiser.train()
    optimizer: Any = torch.optim.AdamW(denoiser.parameters(), lr=1e-4)
    schedule = build(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    accelerator = _accelerate()
    if accelerator is not None:
        denoiser, optimizer = accelerator.prepare(denoiser, optimizer)

    def run(steps: int) -> None:
        for moments, embeds in itertools.islice(pairs, steps):
            latents = sample_posterior(moments, noise=torch.randn_like(moments[:, :4]))
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (len(latents),))
            noisy = schedule.add_noise(latents, noise, timesteps)
            made = denoiser(noisy, timesteps, embeds).sample
            loss: Any = nn.functional.mse_loss(made, noise)
            if accelerator is None:
                loss.backward()
                nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
            else:
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(denoiser.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def _in_memory(cache: LatentCache) -> Pairs:
    """Every row as float32 tensors, shuffled by torch's own loader."""
    drawn = next(dataset_of(cache).batches(batch_size=cache.num_rows))
    columns: Any = zip(
        *((d.sample.raw_latents, d.sample.prompt_embeds) for d in drawn), strict=True
    )
    rows = [torch.from_numpy(np.stack(column).astype(np.float32)) for column in columns]
    data: Any = torch.utils.data.TensorDataset(*rows)
    loader: Any = torch.utils.data.DataLoader(data, _BATCH, shuffle=True, drop_last=True)
    while True:
        yield from loader


def _webdataset(cache: LatentCache) -> Pairs:
    while True:
        for latents, embeds in _webdataset_batches(cache):
            yield torch.from_numpy(latents).float(), torch.from_numpy(embeds).float()


def _webdataset_batches(cache: LatentCache) -> Iterator[Any]:
    """The public pattern: shuffled, decoded, batched, in this process."""
    import webdataset

    urls = [shard.path for shard in cache.shards]
    rows: Any = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(100)
    arrays = rows.decode().to_tuple("latents.npy", "prompt_embeds.npy")
    return iter(arrays.batched(_BATCH, partial=False))


def measure_reading(bench: PeersBench) -> list[PeerResult]:
    """The tiny model's cache, batch 32: as it is stored, and with what a step needs of noise."""
    rows, model = bench.sized(_READING_ROWS, least=8 * _BATCH), train_models("tiny", _CPU)
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        tars = write_random_cache(Path(folder, "tars"), model=model, rows=rows)
        tables = write_random_cache(
            Path(folder, "tables"), model=model, rows=rows, file_format="parquet"
        )
        batches = rows // _BATCH
        sides: dict[str, Callable[[], Iterator[Any]]] = {
            "ours": lambda: dataset_of(tars).batches(batch_size=_BATCH),
            "webdataset": lambda: _webdataset_batches(tars),
            "datasets": _datasets_batches(tables, Path(folder)),
            "ours, with noise": lambda: collated_batches(tars, batch_size=_BATCH),
            "webdataset with torch.randn": lambda: map(_noised, _webdataset_batches(tars)),
        }
        runs = {name: partial(_exhaust, side, batches) for name, side in sides.items()}
        seconds = in_turns(runs, repeats=bench.repeats)
    results = []
    for part, ours, peers in (
        ("reading", "ours", ("webdataset", "datasets")),
        ("reading, with noise", "ours, with noise", ("webdataset with torch.randn",)),
    ):
        results += [
            PeerResult(
                part=part,
                peer=peer,
                unit="samples",
                amount=batches * _BATCH,
                our_seconds=seconds[ours],
                peer_seconds=seconds[peer],
                min_ratio=1.0,
                min_per_second=_MIN_WITH_NOISE if "noise" in part else None,
            )
            for peer in peers
        ]
    return results


def _datasets_batches(cache: LatentCache, folder: Path) -> Callable[[], Iterator[Any]]:
    """Shuffled, as tensors; read into its own Arrow files first, which is not measured."""
    datasets = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    files = [shard.path for shard in cache.shards]
    rows: Any = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(folder / "arrow")
    )
    rows = rows.select_columns(["latents", "prompt_embeds"]).shuffle(seed=0).with_format("torch")
    return lambda: rows.iter(batch_size=_BATCH, drop_last_batch=True)


def _noised(batch: Any) -> tuple[Tensor, ...]:
    """Sampled latents, noise and embeddings, float32."""
    moments, embeds = (torch.from_numpy(array).float() for array in batch)
    latents = sample_posterior(moments, noise=torch.randn_like(moments[:, :4]))
    return latents, torch.randn_like(latents), embeds


def _exhaust(side: Callable[[], Any], count: int) -> None:
    batches = side()
    for _ in itertools.islice(batches, count):
        continue
    if hasattr(batches, "close"):
        batches.close()
