"""Figures of a training: metrics.jsonl, TensorBoard, Weights & Biases, the progress line."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.run.store import RunStore
from pipelines.training.config import TrackingConfig
from sd_core.say import Say
from sd_core.training.trainer import Metrics

METRICS_FILE = "metrics.jsonl"


class TrainingRecords:
    """Writes each log line everywhere it is wanted.

    A local `metrics.jsonl` grows line by line; on an object store it is written at checkpoints.
    Lines of steps after the checkpoint that a resumed training starts from are taken back.
    """

    def __init__(
        self,
        store: RunStore,
        tracking: TrackingConfig,
        *,
        start_step: int,
        steps: int,
        name: str,
        say: Say,
    ) -> None:
        self._store = store
        self._steps = steps
        self._say = say
        self._lines = [line for line in read_metrics(store) if line["step"] <= start_step]
        self.flush()
        self._writers = [*_tensorboard(store, tracking, start_step), *_wandb(tracking, name)]

    def add(self, metrics: Metrics, *, flops_share: float | None) -> None:
        """Record one log line and say it."""
        line: dict[str, Any] = {
            "step": metrics.step,
            **metrics.values,
            "images_per_second": metrics.samples_per_second,
            "seconds": metrics.seconds,
        }
        if flops_share is not None:
            line["flops_share"] = flops_share
        self._write(line)
        self._say(_progress_line(line, self._steps))

    def add_values(self, step: int, values: Mapping[str, float]) -> None:
        """Record and say figures that are measured now and then, in a line of their own."""
        self._write({"step": step, **values})
        figures = " | ".join(f"{name} {value:.2f}" for name, value in values.items())
        self._say(f"step {step:,} of {self._steps:,} | {figures}")

    def _write(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        if self._store.is_local:
            with Path(self._store.absolute(METRICS_FILE)).open("a") as stream:
                stream.write(json.dumps(line) + "\n")
        for write in self._writers:
            write(line)

    def flush(self) -> None:
        """Write the whole file, which is what an object store needs."""
        text = "".join(json.dumps(line) + "\n" for line in self._lines)
        self._store.replace(METRICS_FILE, text.encode())


def _progress_line(line: Mapping[str, Any], steps: int) -> str:
    parts = [
        f"step {line['step']:,} of {steps:,}",
        *(f"{name} {value:.4f}" for name, value in line.items() if name.endswith("loss")),
        f"{line['images_per_second']:.1f} images/s",
    ]
    if "flops_share" in line:
        parts.append(f"{line['flops_share']:.0%} of the FLOP limit")
    return " | ".join(parts)


def read_metrics(store: RunStore) -> list[dict[str, Any]]:
    """The log lines of a training, in the order of their steps; a torn last one is left out."""
    try:
        text = store.read_bytes(METRICS_FILE).decode()
    except FileNotFoundError:
        return []
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


_Writer = Callable[[Mapping[str, Any]], None]


def _tensorboard(store: RunStore, tracking: TrackingConfig, start_step: int) -> list[_Writer]:
    if not tracking.tensorboard or not store.is_local:
        return []
    from torch.utils.tensorboard import SummaryWriter

    make: Any = SummaryWriter
    writer = make(store.absolute("tensorboard"), purge_step=start_step + 1)

    def write(line: Mapping[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                writer.add_scalar(name, value, line["step"])
        writer.flush()

    return [write]


def _wandb(tracking: TrackingConfig, name: str) -> list[_Writer]:
    if tracking.wandb is None:
        return []
    import wandb

    run = wandb.init(project=tracking.wandb, name=name, id=name, resume="allow")
    return [lambda line: run.log(dict(line), step=line["step"])]
