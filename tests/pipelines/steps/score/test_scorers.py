"""The table of scorers, and what a configuration makes of it."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.config import Config, ConfigError, validate_config
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.schemas import columns_of, read_schemas
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.steps.score import ScoreConfig, ScoreStep
from pipelines.steps.score.scorer import ScoreBatch, Scorer, ScorerConfig, Values, as_column
from pipelines.steps.score.scorers import SCORERS
from sd_core.model.clip import Clip
from tests import model_cases, run_cases

OFF = {"similarity": False}


class BrightnessConfig(ScorerConfig):
    sides: tuple[int, ...] = (0, 255)
    name: str | None = None


class Brightness(Scorer):
    """Of the pixels: a number, a text and a count, null in every other image."""

    Config = BrightnessConfig
    columns = (
        pa.field("brightness", pa.float32()),
        pa.field("brightness_label", pa.string()),
        pa.field("num_clipped", pa.int32()),
    )

    def __init__(self, config: BrightnessConfig) -> None:
        self._sides = config.sides

    @classmethod
    def open(
        cls, config: BrightnessConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        return cls(config)

    def score(self, batch: ScoreBatch) -> Mapping[str, Values]:
        means = batch.pixels.float().mean(dim=(1, 2, 3)).cpu().numpy()
        clipped = sum((batch.pixels == side).sum(dim=(1, 2, 3)) for side in self._sides)
        counts = pa.array(
            torch.as_tensor(clipped).cpu().numpy(), mask=np.arange(len(means)) % 2 == 1
        )
        labels = pa.array(["bright" if mean > 127 else "dark" for mean in means])
        return {"brightness": means, "brightness_label": labels, "num_clipped": counts}


class FirstEmbedding(Scorer):
    """Of the shared embedding: its first value, under the name of another's column."""

    columns = (pa.field("aesthetic_v2", pa.float32()),)
    reads_clip = True

    @classmethod
    def open(
        cls, config: ScorerConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        return cls()

    def score(self, batch: ScoreBatch) -> Mapping[str, Values]:
        return {"aesthetic_v2": batch.embeddings[:, 0].cpu().numpy()}


class Section(Config):
    score: ScoreConfig


@pytest.fixture(autouse=True)
def further_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "brightness", Brightness)
    monkeypatch.setitem(SCORERS, "first", FirstEmbedding)


def config_of(**score: Any) -> ScoreConfig:
    return validate_config(Section, {"score": score}, where="here").score


def test_a_section_of_the_table_is_read_strictly_and_is_part_of_the_identity() -> None:
    config = config_of(**OFF, brightness={"sides": [0]})
    assert config.scorers() == {"brightness": BrightnessConfig(sides=(0,))}
    assert config == config_of(**OFF, brightness={"sides": [0]}, first=False)
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.identity()["brightness"] == {
        "sides": [0],
        "name": None,
        "columns": ["brightness: float", "brightness_label: string", "num_clipped: int32"],
    }
    assert config.model_dump(mode="json")["brightness"] == {"sides": [0], "name": None}
    assert config.identity() != config_of(**OFF, brightness=True).identity()
    assert [column.name for column in config.further_columns()] == [
        "brightness",
        "brightness_label",
        "num_clipped",
    ]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"brightness": {"side": 1}}, "score.brightness.side: unknown key; did you mean 'sides'?"),
        ({"brightness": {"sides": ["x"]}}, "score.brightness.sides.0: input should be a valid int"),
        ({"brightnes": True}, "score.brightnes: unknown key; did you mean 'brightness'?"),
        ({"faces": True}, "allowed: aesthetic_v1, aesthetic_v2, batch_size, brightness, clip, "),
        ({"first": True}, "score: clip is required: first cannot do without it"),
        (
            {"first": True, "aesthetic_v2": {"weights": "x"}, "clip": {"name": "preset:tiny/clip"}},
            "score: aesthetic_v2 and first both make aesthetic_v2; leave one out",
        ),
        ({"brightness": False}, "score: nothing to score"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(score: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(**OFF, **score)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["url", "source_x", "Faces", "prompt_key"])
def test_a_column_that_is_taken_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FirstEmbedding, "columns", (pa.field(name, pa.float32()),))
    with pytest.raises(ConfigError, match=f"first: its column {name} is taken"):
        config_of(**OFF, first=True, clip={"name": "preset:tiny/clip"})


def score(tmp_path: Path, config: ScoreConfig) -> tuple[RunStore, Manifest]:
    store = RunStore(str(tmp_path / "run"))
    run_cases.commit_download(store, 0, run_cases.rows(7), tmp_path)
    images = Committed(store, "download", "d" * 16)
    step = ScoreStep(store, fingerprint="f" * 16, images=images, config=config, torch_threads=1)
    step.open()
    try:
        return store, step.run(0)
    finally:
        step.close()


def test_pixels_alone_are_scored_without_a_clip(tmp_path: Path) -> None:
    store, manifest = score(tmp_path, config_of(**OFF, brightness=True, batch_size=4))
    entry = manifest.file("facts/score")
    assert entry is not None
    table = read_table(store, entry.path)
    pixels = [row.pixels for row in run_cases.rows(7) if row.pixels is not None]
    means = [float(picture.mean()) for picture in pixels]
    assert table["brightness"].to_pylist() == pytest.approx(means, rel=1e-5)
    assert table["num_clipped"].null_count > 0  # every other image of a batch
    assert table["clip_similarity"].null_count == table.num_rows
    recorded = read_schemas(store, step="score", fingerprint="f" * 16, folder="facts/score")
    assert recorded == [columns_of(table.schema)]


def test_a_scorer_can_stand_for_a_score_of_ours_on_the_shared_embedding(tmp_path: Path) -> None:
    clip = {"name": str(model_cases.clip_folder(tmp_path / "clip"))}
    config = config_of(clip=clip, first=True, embeddings=True, batch_size=4)
    assert config.further_columns() == ()
    store, manifest = score(tmp_path, config)
    entry = manifest.file("facts/score")
    assert entry is not None
    table = read_table(store, entry.path)
    embeddings = table["embedding"].to_pylist()
    firsts = [float(embedding[0]) for embedding in embeddings]
    assert table["aesthetic_v2"].to_pylist() == pytest.approx(firsts, abs=1e-3)


def test_values_that_do_not_fill_a_column_are_refused() -> None:
    assert as_column(np.arange(5.0), pa.float32(), 3).to_pylist() == [0, 1, 2]
    assert as_column(pa.array([1, None, 3]), pa.int32(), 2).to_pylist() == [1, None]
    lists = as_column(np.eye(3, dtype=np.float16), pa.list_(pa.float16(), 3), 2)
    assert lists.to_pylist() == [[1, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match="2 values for 3 images"):
        as_column(np.zeros(2), pa.float32(), 3)
