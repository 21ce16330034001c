"""Photographs come in by every way: the right bytes with the right caption, and no copy of them but
the stored images."""

import base64
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import verify
from tests.contracts.source_cases import ledger, run_job
from tests.contracts.ways_in import COMMIT, WAYS, Pictures, prepare, write_source

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # datasets' own


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> Pictures:
    folder = shared_data / "photos/coco_mini"
    lines = (folder / "captions.jsonl").read_text().splitlines()[:5]
    told = [json.loads(line) for line in lines]
    return Pictures(
        [(folder / one["file"]).read_bytes() for one in told], [one["captions"] for one in told]
    )


def copies(run: Path, contents: list[bytes]) -> list[str]:
    """Committed files, the stored images aside, that hold bytes of a picture in any form."""
    parts = [content[at : at + 48] for content in contents for at in (0, len(content) // 2)]
    needles = [*parts, *(one.hex().encode() for one in parts)]
    needles += [base64.b64encode(one[:48]) for one in parts]
    found = []
    for path in run.rglob("*"):
        if path.is_dir() or path.suffix == ".tar":
            continue
        texts = [path.read_bytes()]
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            assert not any(pa.types.is_binary(kind) for kind in table.schema.types), path
            texts.append(repr(table.to_pylist()).encode())
        found += [path.name for needle in needles for text in texts if needle in text]
    return found


@pytest.mark.parametrize("way", [*WAYS, "hub"])
def test_photographs_come_in_with_their_captions_and_are_copied_into_no_facts(
    way: str, photographs: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source: Path | str = tmp_path / "in"
    if way == "hub":
        pq.write_table(photographs.table(), tmp_path / "train.parquet")
        prepare(tmp_path / "cache", "org/photos", COMMIT, train=tmp_path / "train.parquet")
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        source, given = f"hub:org/photos@{COMMIT}", []
    else:
        given = write_source(way, photographs, tmp_path / "in/part=7")
    output = tmp_path / "run"
    assert run_job(source, output, *given, "source.captions=longest", "image.size=64") == 0
    rows = ledger(output)
    longest = [max(texts, key=lambda text: len(text or "")) for texts in photographs.captions]
    digests = [hashlib.sha256(content).hexdigest() for content in photographs.contents]
    assert [(row["sha256"], row["caption"]) for row in rows] == [
        *zip(digests, longest, strict=True)
    ]
    assert [row["reason"] for row in rows] == [None] * len(rows)
    assert way == "hub" or [row["source_part"] for row in rows] == [7] * len(rows)
    assert not copies(output, photographs.contents)
    assert verify.main([str(output), "--deep"]) == 0
