"""A list full of broken and unusual images changes no stored picture beside them."""

import hashlib
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.curate import main as curate
from jobs.demo.server import LoopbackServer
from jobs.verify import main as verify
from pipelines.rows.ledger import REASONS
from tests.contracts.cases import ROOT
from tests.pipelines.steps.download import drawn, odd_jpegs
from tests.pipelines.steps.download.mutations import drawn_originals, mutations
from tests.run_cases import committed_files

pytestmark = pytest.mark.slow

SIZE = 32
NUM_MUTATIONS = 80
NUM_NEIGHBOURS = 160


def _neighbours() -> dict[str, bytes]:
    """Pictures decoded whole and scaled, of many contents, under many names."""
    found = {}
    for number in range(NUM_NEIGHBOURS):
        side = (SIZE, 2 * SIZE, 5 * SIZE, 9 * SIZE)[number % 4]
        picture = Image.fromarray(drawn.noise(side, seed=number % 20))
        name = ("JPEG", "JPEG", "PNG", "WEBP")[number // 4 % 4]
        found[f"neighbour-{number:03d}.{name.lower()}"] = drawn.saved(picture, name)
    return found


def _unusual() -> dict[str, bytes]:
    """Lossless JPEGs at every reduction, arithmetic codes, false frames, endless metadata."""
    found = {"arithmetic.jpg": odd_jpegs.ARITHMETIC}
    for times in (1, 2, 4, 8):
        for channels in (1, 3):
            picture = drawn.noise(times * SIZE)[:, :, :channels]
            found[f"lossless-{times}-{channels}.jpg"] = odd_jpegs.lossless_jpeg(picture)
    jpeg = drawn.saved(Image.fromarray(drawn.noise(8 * SIZE)), "JPEG")
    for number in (3, 5, 6, 7, 9, 10, 11, 13, 14, 15):
        found[f"sof{number}.jpg"] = odd_jpegs.with_frame(jpeg, number=number)
    found["sixteen-bits.jpg"] = odd_jpegs.with_frame(jpeg, number=3, bit_depth=16)
    segments, rest = odd_jpegs.split(jpeg)
    metadata = [(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(65_000))] * 5
    metadata += [(0xE2, b"ICC_PROFILE\0" + bytes((n, 5)) + bytes(65_000)) for n in range(1, 6)]
    found["metadata.jpg"] = odd_jpegs.joined([*metadata, *segments], rest)
    return found


def _run(names: Sequence[str], server: LoopbackServer, folder: Path) -> Path:
    """Download the files into a run, every crop and every fact of it verified."""
    folder.mkdir()
    urls = [f"{server.url}/{name}" for name in names]
    pq.write_table(pa.table({"URL": urls, "TEXT": names}), folder / "list.parquet")
    settings = {
        "source.path": folder / "list.parquet",
        "output": folder / "run",
        "plan.rows_per_shard": 120,
        "download.allow_networks": "[127.0.0.0/8]",
        "download.timeout_s": 60.0,
        "download.max_bytes": 64 << 20,
        "image.size": SIZE,
        "engine.runner": "local",
    }
    config = ROOT / "configs/curate/demo.yaml"
    options = [item for pair in settings.items() for item in ("--set", "{}={}".format(*pair))]
    assert curate(["--config", str(config), "--steps", "download", *options]) == 0
    assert verify([str(folder / "run"), "--deep"]) == 0
    return folder / "run"


def _stored(run: Path) -> dict[str, str]:
    """sha256 of each stored crop by its file's name, which is the row's caption."""
    hashes, names = {}, {}
    for path in run.rglob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                assert stream is not None
                key, _, kind = member.name.partition(".")
                if kind == "json":
                    names[key] = json.loads(stream.read())["caption"]
                elif kind == "jpg":
                    hashes[key] = hashlib.sha256(stream.read()).hexdigest()
    return {names[key]: digest for key, digest in hashes.items()}


def test_stored_pictures_are_the_same_bytes_beside_unusual_and_broken_ones(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "badfiles"
    bad = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}
    broken = {
        f"{mutation.name}".replace(" ", "-"): mutation.data
        for mutation in mutations(drawn_originals(), NUM_MUTATIONS, seed=21)
    }
    neighbours, others = _neighbours(), bad | broken | _unusual()
    served = tmp_path / "served"
    served.mkdir()
    for name, data in (neighbours | others).items():
        (served / name).write_bytes(data)
    mixed = [name for pair in zip(neighbours, others, strict=False) for name in pair]
    mixed += [name for name in (*neighbours, *others) if name not in set(mixed)]
    with LoopbackServer(served) as server:
        alone = _stored(_run(list(neighbours), server, tmp_path / "alone"))
        run = _run(mixed, server, tmp_path / "mixed")
    beside = _stored(run)
    assert len(alone) == NUM_NEIGHBOURS
    assert {name: beside.get(name) for name in neighbours} == alone

    facts = pa.concat_tables(
        pq.read_table(path, columns=["caption", "reason"])
        for path in committed_files(run, "facts/download")
    )
    reasons = dict(zip(facts["caption"].to_pylist(), facts["reason"].to_pylist(), strict=True))
    assert set(reasons) == {*neighbours, *others}
    assert {name for name, reason in reasons.items() if reason is None} == set(beside)
    assert set(reasons.values()) - {None} <= set(REASONS)
    assert not {"decoder_crashed", "decode_timed_out"} & set(reasons.values())
    decoded = [name for name in _unusual() if reasons[name] is None]
    assert decoded == [
        *(name for name in _unusual() if name.startswith(("arithmetic", "lossless"))),
        "metadata.jpg",
    ]
