"""Scorers with weights of their own, by the real commands: what they make is a score as any other,
and where their packages are missing that is one line."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

from jobs import curate, report, verify, why
from pipelines.steps.score import score as score_module
from pipelines.steps.score import wheel_models
from tests.contracts import job_cases, source_cases
from tests.run_cases import committed_files

ASKED = "{text: {read: true}, open_nsfw: true}"
RULES = "[{column: text_area, max: 0.05}]"


def picture(text: str) -> bytes:
    image = Image.new("RGB", (192, 192), (40, 90, 60))
    brush = ImageDraw.Draw(image)
    brush.ellipse((20, 20, 60, 50), fill=(200, 180, 90))
    brush.text((12, 100), text, font=ImageFont.load_default(36), fill=(250, 250, 250))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def options(folder: Path, **more: str) -> list[str]:
    """A curation with detectors alone, of a picture with text and one without, a shard each."""
    said = {"sign": "BIG SALE", "wall": ""}
    members = [(f"{name}.png", picture(text)) for name, text in said.items()]
    members += [(f"{name}.txt", f"a {name}".encode()) for name in said]
    source = source_cases.write_tar(folder / "pictures.tar", sorted(members))
    told = {"score": ASKED, "select__rules": RULES, "select__thresholds": "{}"}
    told |= {"image__size": "192", "plan__rows_per_shard": "1"} | more
    steps = ("--steps", "download,score,select,publish")
    return job_cases.curate(source, folder / "run", *steps, **told)


def test_detectors_make_scores_as_any_other_and_load_no_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(tmp_path)
    with monkeypatch.context() as without:
        without.setattr(wheel_models, "find_spec", lambda name: None)
        told = job_cases.call(curate.main, *asked, capsys=capsys)
        assert told.code == 2
        missing = "score.text: rapidocr is not installed: pip install 'latent-foundry[detectors]'"
        assert missing in told.err
        assert "Traceback" not in told.err
        assert not (tmp_path / "run").exists()

    monkeypatch.setattr(score_module, "load_clip", None)  # whatever calls it fails
    assert curate.main(asked) == 0
    run = tmp_path / "run"
    ledger = pa.concat_tables(pq.read_table(p) for p in committed_files(run, "ledger"))
    rows = {row["caption"]: row for row in ledger.to_pylist()}
    sign, wall = rows["a sign"], rows["a wall"]
    assert (sign["reason"], sign["rule"]) == ("value_above_max", "text_area <= 0.05")
    assert (sign["text"], sign["text_boxes"]) == ("BIG SALE", 1)
    assert (wall["kept"], wall["text_area"], wall["text"]) == (True, 0, "")
    assert 0 < wall["punsafe_open_nsfw"] < 1

    # Whoever lacks the packages can still check, read and show the run.
    monkeypatch.setattr(wheel_models, "find_spec", lambda name: None)
    assert verify.main([str(run), "--deep"]) == 0
    assert report.main([str(run)]) == 0
    page = (run / "report/index.html").read_text()
    assert "text_area" in page
    assert "punsafe_open_nsfw" in page
    assert "PP-OCRv6 small" in (run / "README.md").read_text()
    told = job_cases.call(why.main, run, sign["key"], "--json", capsys=capsys)
    scores = json.loads(told.out)["scores"]
    assert scores["text_area"].endswith("(max 0.05)")
    assert scores["text"] == "BIG SALE"
    assert scores.keys() == {"text_area", "text_boxes", "text", "punsafe_open_nsfw"}
    told = job_cases.call(curate.main, *asked, capsys=capsys)
    assert (told.code, missing in told.err) == (2, True)


def test_a_rule_by_a_detector_that_is_not_asked_for_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rule, key in (
        ("{column: caption_is_text, max: 0.5}", "nothing in `score` makes caption_is_text"),
        ("{preset: t_mars}", "nothing in `score` makes clip_similarity_without_text"),
        ("{preset: t_mars, missing: keep}", "null is the worst there; leave missing out"),
    ):
        asked = options(tmp_path, select__rules=f"[{rule}]")
        told = job_cases.call(curate.main, *asked, capsys=capsys)
        assert told.code == 2
        assert key in told.err


def test_pictures_are_ranked_by_the_similarity_without_their_text(tmp_path: Path) -> None:
    clip = "{clip: {name: preset:tiny/clip, without_text: true}}"
    assert curate.main(options(tmp_path, score=clip, select__rules="[{preset: t_mars}]")) == 0
    run = tmp_path / "run"
    ledger = pa.concat_tables(pq.read_table(p) for p in committed_files(run, "ledger"))
    rows = {row["caption"]: row for row in ledger.to_pylist()}
    sign, wall = rows["a sign"], rows["a wall"]
    assert wall["clip_similarity_without_text"] == wall["clip_similarity"]
    assert sign["clip_similarity_without_text"] != sign["clip_similarity"]
    better, worse = sorted(rows.values(), key=lambda row: -row["clip_similarity_without_text"])
    assert (better["kept"], worse["reason"]) == (True, "ranked_below_best")
    assert worse["rule"] == "t_mars"
    assert verify.main([str(run), "--deep"]) == 0
