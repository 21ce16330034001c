"""Figures of a training: metrics.jsonl, TensorBoard, Weights & Biases, the progress line."""

import hashlib
import importlib.util
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import ConfigError
from pipelines.run.store import RunStore
from pipelines.training.config import TrackingConfig, TrainingConfig
from pipelines.training.model_card import public_config
from sd_core.errors import EnvironmentFault
from sd_core.redact import redact_url
from sd_core.say import Say
from sd_core.sealed import seal, unseal
from sd_core.training.metrics import Metrics

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class TrainingRecords:
    """Writes each log line everywhere it is wanted.

    A local `metrics.jsonl` grows line by line, each under its own seal; on an object store it is
    written at checkpoints. Lines of steps after the checkpoint that a resumed training starts from
    are taken back.
    """

    def __init__(
        self, store: RunStore, config: TrainingConfig, *, start_step: int, say: Say
    ) -> None:
        self._store = store
        self._steps = config.loop.steps
        self._say = say
        lines = read_metrics(store, say=say)
        self._lines = [line for line in lines if line["step"] <= start_step]
        due = start_step - start_step % config.loop.log_every
        if due > max((line["step"] for line in self._lines), default=0):
            say(f"{METRICS_FILE}: lines of earlier steps are lost; the next ones go behind")
        self.flush()
        self._trackers = [*_tensorboard(store, config.tracking, start_step), *_wandb(config)]

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
            path = self._store.absolute(METRICS_FILE)
            with Path(path).open("ab") as stream:
                stream.write(seal(json.dumps(line)))
        for tracker in self._trackers:
            tracker.write(line)

    def flush(self) -> None:
        """Write the whole file, which is what an object store needs."""
        content = b"".join(seal(json.dumps(line)) for line in self._lines)
        self._store.replace(METRICS_FILE, content)

    def close(self) -> None:
        """Tell the trackers that the training is complete."""
        for tracker in self._trackers:
            tracker.close()


def _progress_line(line: Mapping[str, Any], steps: int) -> str:
    parts = [
        f"step {line['step']:,} of {steps:,}",
        *(f"{name} {value:.4f}" for name, value in line.items() if name.endswith("loss")),
        f"{line['images_per_second']:.1f} images/s",
    ]
    if "flops_share" in line:
        parts.append(f"{line['flops_share']:.0%} of the FLOP limit")
    return " | ".join(parts)


def read_metrics(store: RunStore, *, say: Say | None = None) -> list[dict[str, Any]]:
    """The log lines of a training, in the order of their steps.

    A torn last one, which a kill leaves, is left out; so are damaged ones, whose number is said.
    """
    try:
        content = store.read_bytes(METRICS_FILE)
    except FileNotFoundError:
        return []
    *whole, _torn = content.split(b"\n")
    read = [_read_line(line) for line in whole]
    found = [line for line in read if line is not None]
    if say is not None and len(found) < len(read):
        say(f"{METRICS_FILE}: {len(read) - len(found)} damaged line(s) are left out")
    return found


def _read_line(content: bytes) -> dict[str, Any] | None:
    try:
        line = unseal(content + b"\n")
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


@dataclass(frozen=True)
class _Tracker:
    write: Callable[[Mapping[str, Any]], None]
    close: Callable[[], None]


def _tensorboard(store: RunStore, tracking: TrackingConfig, start_step: int) -> list[_Tracker]:
    if not tracking.tensorboard or not store.is_local:
        return []
    # torch's SummaryWriter writes in a thread, which shows a trace where the disk is full.
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    path = Path(store.absolute(TENSORBOARD_FOLDER))
    path.mkdir(exist_ok=True)
    path /= f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    make: Any = RecordWriter

    def put(**fields: Any) -> None:
        with path.open("ab") as stream:
            make(stream).write(Event(wall_time=time.time(), **fields).SerializeToString())

    def write(line: Mapping[str, Any]) -> None:
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in line.items()
            if name != "step"
        ]
        put(step=line["step"], summary=Summary(value=values))

    put(file_version="brain.Event:2")
    # What an earlier attempt has written of later steps is not shown.
    put(step=start_step + 1, session_log=SessionLog(status=SessionLog.START))
    return [_Tracker(write, lambda: None)]


def check_trackers(tracking: TrackingConfig) -> None:
    """Raise `ConfigError` where a tracker that is asked for is not installed."""
    if tracking.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise ConfigError("tracking.wandb: wandb is not installed; pip install wandb, or null")


def _wandb(config: TrainingConfig) -> list[_Tracker]:
    """Outputs of the same name in two folders are two runs; a resumed training goes on in its own.

    Raises:
        EnvironmentFault: Weights & Biases cannot be reached, or refuses the key.
    """
    if config.tracking.wandb is None:
        return []
    import wandb

    output = redact_url(config.output).rstrip("/")
    try:
        run: Any = wandb.init(
            project=config.tracking.wandb,
            name=output.rpartition("/")[2],
            id=hashlib.sha256(output.encode()).hexdigest()[:16],
            resume="allow",
            config=dict(public_config(config)),
        )
    except Exception as error:  # its own classes, and those of its client
        raise EnvironmentFault(f"tracking.wandb: {type(error).__name__}: {error}") from error
    return [_Tracker(lambda line: run.log(dict(line), step=line["step"]), run.finish)]
