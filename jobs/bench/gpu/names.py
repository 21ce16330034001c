"""The names of the items, in the order in which they are worth their time; nothing is imported."""

from typing import Final

DEADLINES_S: Final[dict[str, float]] = {
    "product": 20,
    "copies": 10,
    "samplers": 40,
    "mask": 15,
    "resume": 20,
    "ddp": 25,
    "graphs": 15,
    "clip": 25,
    "score": 40,
    "vae": 20,
    "encode": 35,
    "train": 50,
    "cached": 35,
    "generate": 45,
    "plain": 20,
    "exact images": 15,
    "exact scores": 30,
    "drift": 25,
    "recorded": 25,
    "checkpointed": 40,
    "compile": 90,
    "compiled": 60,
    "train compiled": 90,
}
COMPILED: Final = ("compile", "compiled", "train compiled")
"""These call a compiler, which takes minutes on a CPU."""
