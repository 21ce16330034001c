"""What a finished training leaves: a diffusers folder with its card, and result.json last."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipelines.run.processors import PROCESSORS_FOLDER
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.training.checkpoints import digest_files, put_folder
from pipelines.training.config import AutoencoderTrainConfig, DataConfig, TrainConfig
from pipelines.training.model_card import write_model_card
from pipelines.training.records import METRICS_FILE, TENSORBOARD_FOLDER
from pipelines.training.samples import SAMPLES_FOLDER
from sd_core.cache.latent_cache import LatentCache
from sd_core.errors import FoundryError
from sd_core.redact import redact_url
from sd_core.sealed import seal_tree, unseal
from sd_core.training.checkpoint import disk_told

LOSS_CURVE_FILE = "loss_curve.png"
_WINDOW_SHARE = 20  # the running mean is over a twentieth of the lines


def draw_loss_curve(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG of every loss in the lines of metrics.jsonl: the values, and their running mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = sorted({name for line in lines for name in line if name.split("/")[-1] == "loss"})
    for name in names:
        steps = [line["step"] for line in lines if name in line]
        values = [line[name] for line in lines if name in line]
        (dots,) = axes.plot(steps, values, ".", markersize=3, alpha=0.4)
        axes.plot(steps, _running_mean(values), color=dots.get_color(), label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _running_mean(values: Sequence[float]) -> list[float]:
    window = max(1, len(values) // _WINDOW_SHARE)
    means = []
    for place in range(len(values)):
        part = values[max(0, place - window + 1) : place + 1]
        means.append(sum(part) / len(part))
    return means


RESULT_FILE = "result.json"
MODEL_FOLDER = "model"


class ResultError(FoundryError):
    """A result is not what was published; says which file."""


class TrainedOn(Protocol):
    """A cache or a set of images."""

    @property
    def num_rows(self) -> int:
        """Over all shards."""


def read_result(store: RunStore) -> dict[str, Any] | None:
    """result.json, which is written when everything else is; None before.

    Raises:
        ResultError: it is damaged.
    """
    try:
        tree: dict[str, Any] = unseal(store.read_bytes(RESULT_FILE))
        return {"step": int(tree["step"]), "files": dict(tree["files"]), **tree}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(f"{store.root}/{RESULT_FILE}: {error}") from error


def check_model(store: RunStore, result: Mapping[str, Any]) -> None:
    """Hold each file of the model against its digest.

    Raises:
        ResultError: one is missing or damaged.
    """
    for name, sha256 in result["files"].items():
        path = f"{MODEL_FOLDER}/{name}"
        if (found := _digest(store, path)) != sha256:
            what = "is missing" if found is None else "damaged, its sha256 is not the recorded one"
            raise ResultError(f"{store.root}/{path}: {what}")


def publish_result(
    store: RunStore,
    config: TrainConfig | AutoencoderTrainConfig,
    save: Callable[[Path], None],
    *,
    step: int,
    fingerprint: str,
    data: Sequence[tuple[TrainedOn, str]],
    figures: Mapping[str, float] | None = None,
) -> None:
    """Store the model with its card, then result.json with the digests of all files.

    An earlier result.json goes first, so that none ever stands beside files that are not its own.

    Args:
        save: Writes the diffusers folder into an empty local one.
        data: What was trained on, in the configuration's order, with its digest.
        figures: Of the model, for card and result.
    """
    described = describe_data(config.data, data)
    with spool_folder() as scratch:
        folder = scratch / MODEL_FOLDER
        folder.mkdir()
        with disk_told(folder):
            save(folder)
        card = write_model_card(config, data=described, steps=step, folder=folder, figures=figures)
        (folder / "README.md").write_text(card, encoding="utf-8")
        store.delete(RESULT_FILE)
        put_folder(store, folder, MODEL_FOLDER)
        files = digest_files(folder)
    folders = (SAMPLES_FOLDER, TENSORBOARD_FOLDER, PROCESSORS_FOLDER)
    paths = [f"{folder}/{name}" for folder in folders for name in store.list_files(folder)]
    records = {path: _digest(store, path) for path in (METRICS_FILE, LOSS_CURVE_FILE, *paths)}
    result = {"step": step, "fingerprint": fingerprint, "data": described, **(figures or {})}
    store.replace(RESULT_FILE, seal_tree({**result, "files": files, "records": records}))


def describe_data(
    config: Sequence[DataConfig], data: Sequence[tuple[TrainedOn, str]]
) -> list[Mapping[str, object]]:
    """Each cache or run: where, how many rows, its share, and its digest."""
    total = sum(one.weight for one in config)
    return [
        {
            "path": redact_url(one.path),
            "rows": trained_on.num_rows,
            "share": one.weight / total,
            "sha256": sha256,
        }
        for one, (trained_on, sha256) in zip(config, data, strict=True)
    ]


def cache_sha256(cache: LatentCache) -> str:
    """Hex sha256 over the spec and the digests of the shards, in their order."""
    lines = "".join(f"{shard.sha256}  {shard.num_rows}\n" for shard in cache.shards)
    return hashlib.sha256(cache.spec.to_json() + lines.encode()).hexdigest()


def _digest(store: RunStore, path: str) -> str | None:
    """Hex sha256 of a stored file; None where there is none."""
    try:
        with store.open(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except FileNotFoundError:
        return None
