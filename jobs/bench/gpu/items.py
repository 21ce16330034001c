"""What each item is."""

from collections.abc import Callable, Iterator

from jobs.bench.gpu import crashing, curating, device, exact, generating, training
from jobs.bench.gpu.item import Figure, Place

ITEMS: dict[str, Callable[[Place], Iterator[Figure]]] = {
    "product": device.product,
    "copies": device.copies,
    "samplers": crashing.samplers,
    "mask": crashing.mask,
    "resume": crashing.resume,
    "ddp": crashing.distributed,
    "graphs": crashing.graphs,
    "clip": curating.clip_alone,
    "score": curating.score_step,
    "vae": curating.vae_alone,
    "encode": curating.encode_step,
    "train": training.unet_eager,
    "cached": training.from_cache,
    "generate": generating.eager,
    "plain": generating.plain,
    "exact images": exact.images,
    "exact scores": exact.scores,
    "drift": exact.drift,
    "recorded": generating.recorded,
    "checkpointed": training.unet_checkpointed,
    "compile": crashing.compiled,
    "compiled": generating.compiled,
    "train compiled": training.unet_compiled,
}
"""By the names of `DEADLINES_S`; each yields figures as it finds them."""
