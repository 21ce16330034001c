"""A prompt longer than an image file's metadata may be costs no row, and is cut with a word."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.generate import main as generate
from jobs.verify import main as verify
from tests.contracts import generation_cases as cases
from tests.run_cases import committed_files

pytestmark = pytest.mark.slow

LONG = "a large red circle, " * 2_500  # 50,000 characters: 100,000 bytes in a user comment
FACES = "\N{GRINNING FACE}" * 40_000  # two units each
ROWS: list[dict[str, Any]] = [
    {"key": "plain", "prompt": "a large red circle", "negative_prompt": "blurry"},
    {"key": "long", "prompt": LONG, "negative_prompt": "blurry"},
    {"key": "unwanted", "prompt": "a large red circle", "negative_prompt": LONG},
    {"key": "faces", "prompt": FACES, "negative_prompt": None},
]


def _members(run: Path) -> dict[str, bytes]:
    found = {}
    for path in committed_files(run, "images"):
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                found[member.name] = stream.read()
    return found


def _parameters(content: bytes) -> str:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        if image.format == "PNG":
            return str(image.info["parameters"])
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        return bytes(comment)[8:].decode("utf-16-be")


@pytest.mark.parametrize("file_format", ["jpg", "webp", "png"])
def test_prompts_beyond_64_kib_of_metadata_keep_their_rows_and_their_neighbours(
    tmp_path: Path, file_format: str
) -> None:
    prompts = cases.write_prompts(tmp_path / "prompts.parquet", ROWS)
    run = tmp_path / "run"
    settings = {
        "prompts.path": prompts,
        "output": run,
        "generate.image.format": file_format,
        "generate.defaults.num_inference_steps": 1,
        "score": "null",
        "engine.runner": "local",
    }
    config = cases.ROOT / "configs/generate/tiny.yaml"
    options = [item for pair in settings.items() for item in ("--set", "{}={}".format(*pair))]
    assert generate(["--config", str(config), *options]) == 0
    assert verify([str(run), "--deep"]) == 0
    members = _members(run)
    for row in ROWS:
        key = f"{row['key']}-0"
        found = json.loads(members[f"{key}.json"])
        assert (found["caption"], found["negative_prompt"]) == (
            row["prompt"],
            row["negative_prompt"] or "",
        )
        written = _parameters(members[f"{key}.{file_format}"])
        assert "Steps: 1, " in written.rpartition("\n")[2]
        is_cut = file_format == "jpg" and row["key"] != "plain"
        assert found.get("parameters_are_cut", False) == is_cut
        assert written.startswith(row["prompt"][:16_000])
        assert (row["prompt"] in written and (row["negative_prompt"] or "") in written) != is_cut
