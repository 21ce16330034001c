"""A training's state as files: safetensors and one JSON, no pickle."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sd_core.errors import FoundryError, InputError
from sd_core.plain_json import parse_json

STATE_FILE = "state.json"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


class CheckpointError(FoundryError):
    """A checkpoint cannot be used; says which file and what is wrong with it."""


class OtherTrainingError(CheckpointError, InputError):
    """A checkpoint is of a training with other options or another architecture."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a training needs to go on as if it had never stopped.

    Every random choice follows from the rows' keys and the step, so there is no random state.
    """

    step: int
    """Steps done."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """By file name without suffix, by tensor name."""
    counts: Mapping[str, int]
    """Updates of each average."""
    recipe: Mapping[str, object]
    """What must be the same for a resumed training to equal an uninterrupted one."""


@dataclass(frozen=True)
class HeldCheckpoint:
    """A checkpoint in memory of its own, or on its way there from a GPU."""

    checkpoint: Checkpoint
    copied: Any
    """An event of the GPU's; None of what was on a CPU."""

    def arrived(self) -> Checkpoint:
        """The checkpoint once it is there; for another thread than the training's."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.checkpoint


class HostMemory:
    """Room for a checkpoint beside what is trained, which is kept for the next one.

    Of a GPU's tensors it is pinned: they are copied there while the CPU and the GPU go on. With
    averages it is four times the weights.
    """

    def __init__(self) -> None:
        self._room: dict[tuple[str, str], Tensor] = {}

    def hold(self, checkpoint: Checkpoint) -> HeldCheckpoint:
        """Copy a checkpoint as it is now; the one held before is lost."""
        cuda: Any = torch.cuda
        copied = None
        held: dict[str, dict[str, Tensor]] = {}
        for name, tensors in checkpoint.tensors.items():
            held[name] = {key: self._copy((name, key), value) for key, value in tensors.items()}
            if copied is None and any(value.is_cuda for value in tensors.values()):
                copied = cuda.Event()
        if copied is not None:
            copied.record()
        return HeldCheckpoint(replace(checkpoint, tensors=held), copied)

    def _copy(self, name: tuple[str, str], value: Tensor) -> Tensor:
        room = self._room.get(name)
        if room is None:
            room = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._room[name] = room
        return room.copy_(value.detach(), non_blocking=True)


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the files into an empty local folder; raises OSError.

    Tensors may share no memory.
    """
    for name, tensors in checkpoint.tensors.items():
        own = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        with disk_told(folder):
            save_file(own, folder / f"{name}.safetensors")
    state = {
        "step": checkpoint.step,
        "files": sorted(checkpoint.tensors),
        "counts": dict(checkpoint.counts),
        "recipe": dict(checkpoint.recipe),
    }
    (folder / STATE_FILE).write_text(json.dumps(state, indent=1, sort_keys=True) + "\n")


@contextmanager
def disk_told(folder: Path) -> Iterator[None]:
    """Raise what safetensors says of a full or broken disk as the OSError that it was."""
    try:
        yield
    except SafetensorError as error:
        if (found := _OS_ERROR.search(str(error))) is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(folder)) from error


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read what `write_checkpoint` wrote; raises `CheckpointError`."""
    try:
        state = parse_json((folder / STATE_FILE).read_text())
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in state["files"]}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: not a whole checkpoint: {error}") from error
    return Checkpoint(
        step=state["step"], tensors=tensors, counts=state["counts"], recipe=state["recipe"]
    )


def check_recipe(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Raise `OtherTrainingError`, naming each option that differs."""
    different = [
        f"{name}: {found.get(name)!r} in the checkpoint, {expected.get(name)!r} now"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if different:
        raise OtherTrainingError(
            "the checkpoint is of another training; give another output, or the same options:\n"
            + "\n".join(f"  - {line}" for line in different)
        )
