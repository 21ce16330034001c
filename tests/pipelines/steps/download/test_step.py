"""A shard through fetch, decode and commit: every row accounted for, the same bytes every time."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jobs.demo.bad_answers import answer, good_jpeg
from jobs.demo.bad_urls import BAD_URLS, ODD_BUT_GOOD, bad_url
from jobs.demo.server import LoopbackServer
from pipelines.rows.ledger import DOWNLOAD_FACTS, REASONS
from pipelines.run.manifest import ShardError, read_manifest
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.steps.download.config import DownloadConfig
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.step import DownloadStep

SIZE = 64


class Rows:
    """One shard's rows, held in memory."""

    files_root = None

    def __init__(self, urls, *, captions=None, reasons=None, images=None, **sources):
        count = len(urls)
        self.images = images
        self.blocked_url = None
        self.blocked_content = None
        self.table = pa.table(
            {
                "row": pa.array(range(count), pa.int32()),
                "key": pa.array([f"{row:016x}" for row in range(count)], pa.string()),
                "url": pa.array(urls, pa.string()),
                "caption": pa.array(
                    captions or [f"picture {n}" for n in range(count)], pa.string()
                ),
                "reason": pa.array(reasons or [None] * count, pa.string()),
                "error_message": pa.nulls(count, pa.string()),
                **sources,
            }
        )

    def blocks_content(self, sha256):
        return sha256 == self.blocked_content

    def url_reason(self, url):
        return "url_blocked" if url == self.blocked_url else None

    def num_rows(self, shard_id):
        return self.table.num_rows

    def read(self, shard_id):
        return self.table

    def read_images(self, shard_id):
        return iter(self.images) if self.images is not None else None


def run_step(folder, rows, *, download=None, image=None, **options):
    """Run shard 3; returns the store and the manifest."""
    store = RunStore(str(folder))
    settings = {"allow_networks": ("127.0.0.0/8",), "timeout_s": 30.0, "backoff_s": 0.01}
    step = DownloadStep(
        store,
        rows,
        fingerprint="f",
        config=DownloadConfig(**{**settings, **(download or {})}),
        image=ImageConfig(size=SIZE, **(image or {})),
        spool_folder=str(folder.parent),
        **options,
    )
    step.open()
    try:
        return store, step.run(3)
    finally:
        step.close()


def facts_of(store, manifest):
    return read_table(store, manifest.file("facts/download").path)


def members_of(store, manifest):
    content = store.read_bytes(manifest.file("images").path)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def raise_it(error):
    raise error


def drawn_jpeg(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((300, 200)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def everything(server, tmp_path_factory):
    """Good, odd and bad URLs in one shard: names, facts, tar members and the manifest.

    Those that end at their deadline are left to test_fetch: a deadline short enough to wait for
    here is one that the other URLs could miss on a busy machine.
    """
    bad = [name for name, url in BAD_URLS.items() if url.reason != "download_timed_out"]
    names = [*ODD_BUT_GOOD, *bad, "good"]
    urls = [
        bad_url(name, server=server.url) if name in BAD_URLS else f"{server.url}/bad/{name}"
        for name in names
    ]
    store, manifest = run_step(
        tmp_path_factory.mktemp("run") / "run", Rows(urls), download={"timeout_s": 120.0}
    )
    return names, facts_of(store, manifest), members_of(store, manifest), manifest


def test_every_bad_url_is_dropped_under_its_reason(everything):
    names, facts, _, _ = everything
    found = dict(zip(names, facts["reason"].to_pylist(), strict=True))
    assert found == {name: BAD_URLS[name].reason if name in BAD_URLS else None for name in names}
    assert set(found.values()) - {None} <= REASONS


def test_statuses_are_img2datasets_words(everything):
    names, facts, _, _ = everything
    found = dict(zip(names, facts["status"].to_pylist(), strict=True))
    assert found["good"] == "success"
    assert found["gone"] == "failed_to_download"
    assert found["png_bomb"] == "failed_to_resize"


def test_every_row_has_its_facts_in_plan_order(everything):
    names, facts, _, manifest = everything
    assert facts["row"].to_pylist() == list(range(len(names)))
    assert set(facts["shard_id"].to_pylist()) == {3}
    assert facts.schema.equals(DOWNLOAD_FACTS)
    measured = [row["phash"] is not None for row in facts.to_pylist()]
    assert measured == [row["status"] == "success" for row in facts.to_pylist()]
    assert manifest.rows_in == len(names) == manifest.kept + sum(manifest.dropped.values())


def test_successes_lie_in_the_tar_in_img2datasets_layout(everything):
    names, facts, members, manifest = everything
    kept = [row["key"] for row in facts.to_pylist() if row["status"] == "success"]
    assert list(members) == [f"{key}.{kind}" for key in kept for kind in ("jpg", "json", "txt")]
    assert manifest.kept == manifest.file("images").num_rows == len(kept)
    key = f"{names.index('good'):016x}"
    assert members[f"{key}.txt"] == f"picture {names.index('good')}".encode()
    facts_beside = json.loads(members[f"{key}.json"])
    assert facts_beside["sha256"] == hashlib.sha256(good_jpeg()).hexdigest()
    assert (facts_beside["original_width"], facts_beside["original_height"]) == (640, 480)
    with Image.open(io.BytesIO(members[f"{key}.jpg"])) as image:
        assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it closes nothing
def test_plain_webdataset_reads_the_tar(server, tmp_path):
    import webdataset

    store, manifest = run_step(tmp_path / "run", Rows([f"{server.url}/bad/good"] * 3))
    path = store.absolute(manifest.file("images").path)
    samples = list(webdataset.WebDataset(path, shardshuffle=False).decode("rgb8", handler=raise_it))
    assert [sample["txt"] for sample in samples] == [f"picture {n}" for n in range(3)]
    assert {sample["jpg"].shape for sample in samples} == {(SIZE, SIZE, 3)}


def test_no_byte_of_a_server_is_in_the_facts(everything):
    _, facts, _, _ = everything
    assert "SECRET-SERVER-BYTES" not in str(facts["error_message"].to_pylist())


def test_bytes_do_not_depend_on_threads_or_on_the_order_of_completion(tmp_path):
    def late(delay_s, content):
        import asyncio

        async def reply_late(request, reply):
            await asyncio.sleep(delay_s)
            await answer(200, content)(request, reply)

        return reply_late

    handlers = {f"/{n}": late(0.02 * (12 - n), drawn_jpeg(n)) for n in range(12)}
    with LoopbackServer(handlers=handlers) as server:
        urls = [f"{server.url}/{n}" for n in range(12)] + [f"{server.url}/bad/gone"]
        manifests = [
            run_step(tmp_path / str(threads), Rows(urls), download={"threads": threads})[1]
            for threads in (1, 4, 16)
        ]
    assert manifests[0].kept == 12
    assert manifests[0].files == manifests[1].files == manifests[2].files


def test_rows_settled_before_are_not_fetched_and_keep_their_reason(tmp_path):
    with LoopbackServer() as server:
        urls = [f"{server.url}/bad/good"] * 2 + [None]
        rows = Rows(urls, reasons=["domain_blocked", None, "url_missing"], rule=[None, None, None])
        store, manifest = run_step(tmp_path / "run", rows)
        assert server.hits["/bad/good"] == 1
    facts = facts_of(store, manifest)
    assert facts["reason"].to_pylist() == ["domain_blocked", None, "url_missing"]
    assert facts["status"].to_pylist() == [None, "success", None]
    assert dict(manifest.dropped) == {"domain_blocked": 1, "url_missing": 1}


def test_shard_without_a_kept_row_has_facts_and_no_tar(server, tmp_path):
    store, manifest = run_step(tmp_path / "run", Rows([f"{server.url}/bad/gone"]))
    assert manifest.file("images") is None
    assert facts_of(store, manifest)["reason"].to_pylist() == ["http_gone"]
    assert read_manifest(store, "download", "f", 3) == manifest


def test_empty_shard_is_committed(tmp_path):
    _, manifest = run_step(tmp_path / "run", Rows([]))
    assert (manifest.rows_in, manifest.kept) == (0, 0)


def test_blocked_bytes_are_not_kept(server, tmp_path):
    rows = Rows([f"{server.url}/bad/good"])
    rows.blocked_content = blocked = hashlib.sha256(good_jpeg()).hexdigest()
    store, manifest = run_step(tmp_path / "run", rows)
    assert dict(manifest.dropped) == {"sha256_blocked": 1}
    assert facts_of(store, manifest)["sha256"].to_pylist() == [blocked]


def test_redirect_to_a_blocked_url_is_not_followed(tmp_path):
    with LoopbackServer() as server:
        rows = Rows([f"{server.url}/bad/redirect_to_good"])
        rows.blocked_url = f"{server.url}/bad/good"
        _, manifest = run_step(tmp_path / "run", rows)
        assert server.hits["/bad/good"] == 0
    assert dict(manifest.dropped) == {"url_blocked": 1}


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256"])
def test_content_hash_decides_whether_the_bytes_are_the_lists(kind, server, tmp_path):
    right = hashlib.new(kind, good_jpeg()).hexdigest()
    hashes = [right, right.upper(), "0" * len(right), "rubbish", None]
    rows = Rows([f"{server.url}/bad/good"] * 5, source_hash=pa.array(hashes))
    store, manifest = run_step(tmp_path / "run", rows, content_hash_column="source_hash")
    bad = "content_hash_mismatch"
    assert facts_of(store, manifest)["reason"].to_pylist() == [None, None, bad, bad, None]


def test_credentials_are_in_no_stored_byte(tmp_path):
    with LoopbackServer() as server:
        host = server.url.removeprefix("http://")
        urls = [f"http://me:hunter2@{host}/bad/{name}" for name in ("redirect_to_good", "gone")]
        urls.append(f"http://{host}/bad/good?X-Amz-Signature=hunter2")
        captions = [f"see {url}" for url in urls]
        store, manifest = run_step(tmp_path / "run", Rows(urls, captions=captions))
    assert manifest.kept == 2
    stored = facts_of(store, manifest).to_pydict()
    assert "hunter2" not in str(stored)
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def test_source_columns_pass_through_whatever_their_type(server, tmp_path):
    import datetime

    day = datetime.datetime(2026, 11, 21)
    rows = Rows([f"{server.url}/bad/good"], source_width=[1.5], source_seen=[day])
    store, manifest = run_step(tmp_path / "run", rows)
    facts = facts_of(store, manifest)
    assert facts["source_width"].to_pylist() == [1.5]
    assert facts["source_seen"].to_pylist() == [day]


def test_images_that_come_with_the_source_take_the_same_way(tmp_path):
    images = [(0, drawn_jpeg(0)), (1, b"no image"), (3, drawn_jpeg(3)), (4, b"")]
    rows = Rows([None] * 5, reasons=[None, None, None, "source_failed", None], images=images)
    store, manifest = run_step(tmp_path / "run", rows)
    assert facts_of(store, manifest)["reason"].to_pylist() == [
        None,
        "format_unsupported",
        "member_missing",
        "source_failed",
        "empty_body",
    ]
    fetched = drawn_jpeg(0)
    with LoopbackServer(handlers={"/0": answer(200, fetched)}) as server:
        other, fetched_manifest = run_step(tmp_path / "other", Rows([f"{server.url}/0"]))
    key = f"{0:016x}.jpg"
    assert members_of(store, manifest)[key] == members_of(other, fetched_manifest)[key]


def test_exif_and_gps_are_not_stored(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "SECRET-CAMERA"
    exif.get_ifd(0x8825)[1] = "N"
    stream = io.BytesIO()
    with Image.open(io.BytesIO(good_jpeg())) as image:
        image.save(stream, "JPEG", exif=exif)
    with LoopbackServer(handlers={"/x": answer(200, stream.getvalue())}) as server:
        store, manifest = run_step(tmp_path / "run", Rows([f"{server.url}/x"]))
    for content in members_of(store, manifest).values():
        assert b"SECRET-CAMERA" not in content
        assert b"Exif" not in content


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_other_formats_are_named_for_what_they_are(kind, server, tmp_path):
    rows = Rows([f"{server.url}/bad/good"])
    store, manifest = run_step(tmp_path / "run", rows, image={"format": kind})
    with Image.open(io.BytesIO(members_of(store, manifest)[f"{0:016x}.{kind}"])) as image:
        assert image.format == kind.upper()


def test_full_disk_fails_the_shard_not_the_row(server, tmp_path, monkeypatch):
    def full(self, row, crop):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.run.spool.CropSpool.add", full)
    with pytest.raises(ShardError, match="OSError") as caught:
        run_step(tmp_path / "run", Rows([f"{server.url}/bad/good"] * 4))
    assert isinstance(caught.value.__cause__, OSError)
    assert not (tmp_path / "run" / "_work/manifests").exists()


def test_decoder_that_gave_up_costs_no_later_shard(tmp_path, monkeypatch):
    store = RunStore(str(tmp_path / "run"))
    step = DownloadStep(
        store,
        Rows([""], images=[(0, drawn_jpeg(1))]),
        fingerprint="f",
        config=DownloadConfig(),
        image=ImageConfig(size=SIZE),
    )
    step.open()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")  # no process to be had for a while
            decoder = step._intake.decoder
            os.kill(decoder.pid, signal.SIGKILL)
            while decoder.is_usable:
                time.sleep(0.01)
            with pytest.raises(FileNotFoundError):
                step.run(1)
        assert step.run(2).kept == 1
    finally:
        step.close()


def test_nothing_is_left_in_the_spool_folder(server, tmp_path):
    run_step(tmp_path / "run", Rows([f"{server.url}/bad/good"]))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_step_brings_neither_ray_nor_torch_into_its_process():
    code = (
        "import sys; from pipelines.steps.download.step import load_img2dataset;"
        "load_img2dataset();"
        "print({'ray', 'torch', 'albumentations', 'img2dataset'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_standard_output_survives_a_shard(server, tmp_path, capfd):
    run_step(tmp_path / "run", Rows([f"{server.url}/bad/good"] * 8))
    print("still here")
    assert capfd.readouterr().out == "still here\n"
