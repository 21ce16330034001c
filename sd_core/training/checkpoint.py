"""A training's state as files: safetensors and one JSON, no pickle."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the files into an empty local folder; raises OSError."""
    for name, tensors in checkpoint.tensors.items():
        # Clones: safetensors refuses tensors that share memory.
        own = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
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
