"""The items one after another: each under its own deadline, what is found kept on disk at once."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from jobs.bench.gpu.child import Child
from jobs.bench.gpu.item import Figure, Place
from jobs.bench.gpu.names import DEADLINES_S
from jobs.hardware import Hardware
from sd_core.say import Say

_STARTING_S: Final = 60.0
"""What a process may take to load torch and our code, beside an item's own deadline."""
_LEAST_S: Final = 5.0
_TINY_PATIENCE: Final = 10  # of tiny models what counts is that all is done
PRODUCT: Final = "product"


@dataclass(frozen=True, kw_only=True)
class GpuBench:
    """What to measure.

    Attributes:
        budget_s: Of all items together.
    """

    names: Sequence[str]
    budget_s: float
    is_tiny: bool
    json: Path | None


@dataclass(kw_only=True)
class Outcome:
    """What became of an item: `done`, `failed`, `too slow` or `no time left`."""

    name: str
    state: str = "running"
    seconds: float = 0.0
    error: str | None = None
    figures: list[Figure] = field(default_factory=list)


def measure_gpu(bench: GpuBench, hardware: Hardware, *, say: Say) -> list[Outcome]:
    """Measure the items by name; what was found before an item fails or is cut off stays."""
    place = Place(device=torch.device(_device()), is_tiny=bench.is_tiny)
    about = {"hardware": str(hardware), **_about_device()}
    say(", ".join(f"{name} {value}" for name, value in about.items() if name != "hardware"))
    child, outcomes = Child(), list[Outcome]()
    ends = time.monotonic() + bench.budget_s
    try:
        for name in bench.names:
            outcomes.append(Outcome(name=name))
            for _ in _measured(outcomes[-1], place, child, ends):
                _keep(bench, about, outcomes)
                _say_news(outcomes[-1], say)
            if name == PRODUCT and outcomes[-1].figures:
                tera = outcomes[-1].figures[0].value or 0.0
                place = replace(place, peak_flops=tera * 1e12)
    finally:
        child.end()
    return outcomes


def _measured(outcome: Outcome, place: Place, child: Child, ends: float) -> Iterator[None]:
    """Each time that there is news of an item, up to its end."""
    started = time.monotonic()
    allowed = DEADLINES_S[outcome.name] * (_TINY_PATIENCE if place.is_tiny else 1)
    deadline = min(ends, started + allowed + child.starting_s(_STARTING_S))
    if deadline - started < _LEAST_S:
        outcome.state = "no time left"
        yield
        return
    child.begin(outcome.name, place)
    while outcome.state == "running":
        try:
            told = child.next(deadline - time.monotonic())
        except TimeoutError:
            child.end()
            outcome.state = "too slow"
        else:
            if isinstance(told, Figure):
                outcome.figures.append(told)
            else:
                outcome.state, outcome.error = "failed" if told else "done", told
        outcome.seconds = round(time.monotonic() - started, 1)
        yield


def line_of(figure: Figure) -> str:
    """A figure with its share of the limit and the peak of memory."""
    if figure.value is None:
        return figure.name
    told = f"{figure.name}: {figure.value:,.4g} {figure.unit}"
    if figure.share is not None:
        told += f", {figure.share:.0%} of {figure.limit:,.4g}"
    if figure.peak_bytes:
        told += f", {figure.peak_bytes / 1e9:.1f} GB"
    return told


def gpu_table(outcomes: Sequence[Outcome]) -> str:
    """All figures, and after them what did not come to its end."""
    figures = [(outcome.name, figure) for outcome in outcomes for figure in outcome.figures]
    lines = [f"{name:15}  {line_of(figure)}" for name, figure in figures]
    ended = [each for each in outcomes if each.state != "done"]
    lines += [f"{each.name:15}  {each.state.upper()} {each.error or ''}".rstrip() for each in ended]
    return "\n".join(lines)


def _say_news(outcome: Outcome, say: Say) -> None:
    if outcome.state == "running":
        say(f"{outcome.name}: {line_of(outcome.figures[-1])}")
        return
    told = f"{outcome.name}: {outcome.state} after {outcome.seconds:.1f} s"
    say(f"{told}: {outcome.error}" if outcome.error else told)


def _keep(bench: GpuBench, about: dict[str, str], outcomes: Sequence[Outcome]) -> None:
    """Write what there is, in one piece."""
    if bench.json is None:
        return
    tree = {"command": "gpu", **about, "budget_s": bench.budget_s, "is_tiny": bench.is_tiny}
    tree |= {"items": [_tree(outcome) for outcome in outcomes]}
    beside = bench.json.with_name(f".{bench.json.name}.part")
    beside.write_text(json.dumps(tree, indent=1) + "\n")
    os.replace(beside, bench.json)


def _tree(outcome: Outcome) -> dict[str, Any]:
    figures = [asdict(each) | {"share": each.share} for each in outcome.figures]
    return asdict(outcome) | {"figures": figures}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _about_device() -> dict[str, str]:
    about = {"torch": torch.__version__, "device": "CPU"}
    if torch.cuda.is_available():
        properties: Any = torch.cuda.get_device_properties(0)
        about["device"] = torch.cuda.get_device_name(0)
        about["memory"] = f"{properties.total_memory / 1e9:.0f} GB"
        about["cuda"] = str(torch.version.cuda)
    return about
