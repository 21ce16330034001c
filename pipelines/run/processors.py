"""Which types of processor computed a step, since the last bits of a float follow the type.

Libraries of linear algebra pick their kernels by maker and instruction set, and each kernel sums in
an order of its own. So the first worker of each type leaves a small file beside the step's
manifests, and a step that several types worked on is said to be so.
"""

import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch

from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json
from sd_core.sealed import seal_tree

# The widest one counts; what comes after them in /proc/cpuinfo changes no kernel that we know of.
_INSTRUCTION_SETS: Final = ("amx_tile", "avx512f", "avx2", "avx", "sve", "asimd")
_PREFIX: Final = "processor-"
PROCESSORS_FOLDER: Final = "processors"
"""Of a training: what types of processor took part."""


def describe_processor(device: torch.device) -> str:
    """The GPU's name, or a CPU's maker and widest instruction set (`AuthenticAMD avx2`)."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        content = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        content = ""
    maker = re.search(r"^(?:vendor_id|CPU implementer)\s*:\s*(\S+)", content, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)", content, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    widest = next((name for name in _INSTRUCTION_SETS if name in known), "")
    return f"{maker[1] if maker else platform.machine()} {widest}".strip()


def is_gpu(name: str) -> bool:
    """Whether `describe_processor` named a GPU: of a CPU it tells maker and instruction set."""
    _, _, widest = name.partition(" ")
    return bool(widest) and widest not in _INSTRUCTION_SETS


def note_processor(store: RunStore, folder: str, device: torch.device) -> None:
    """Record in a folder of the run that a processor of this worker's type computed for it."""
    name = describe_processor(device)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    store.create_exclusive(f"{folder}/{_PREFIX}{slug}.json", seal_tree({"processor": name}))


def noted_processors(store: RunStore, folder: str, names: Iterable[str] | None = None) -> list[str]:
    """The types that `note_processor` recorded there, by name; none in older runs.

    Args:
        names: Of the files in the folder, where they are known.
    """
    return sorted(
        str(read_json(store, f"{folder}/{name}").get("processor"))
        for name in (store.list_files(folder) if names is None else names)
        if name.startswith(_PREFIX)
    )


def describe_mixture(
    store: RunStore, folder: str, *, what: str, names: Iterable[str] | None = None
) -> str | None:
    """What to say where processors of several types computed one thing; None of a single type."""
    found = noted_processors(store, folder, names)
    if len(found) < 2:
        return None
    return (
        f"{what}: computed on processors of {len(found)} types ({'; '.join(found)}): the same job "
        "run again may differ from this one in the last bits of what models compute"
    )
