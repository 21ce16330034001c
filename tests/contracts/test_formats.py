"""Files that others read with no code of ours, and the same run on an object store."""

import gc
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from jobs import verify
from jobs.bench.s3_emulator import S3Endpoint
from tests.contracts import cases
from tests.contracts.cases import ServedList
from tests.run_cases import committed_files

pytestmark = [
    pytest.mark.slow,
    # webdataset leaves the shards that it read to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def read_samples(paths: list[str]) -> list[dict[str, Any]]:
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    gc.collect()
    return samples


def shard_paths(run: Path, folder: str) -> list[str]:
    return [str(run / line) for line in committed_files(run, folder)]


def test_plain_webdataset_reads_images_and_latents(unharmed_run: Path) -> None:
    images = read_samples(shard_paths(unharmed_run, "images"))
    latents = read_samples(shard_paths(unharmed_run, "latents"))
    assert len(images) > len(latents) > 10
    by_key = {sample["__key__"]: sample for sample in images}
    spec = json.loads((unharmed_run / "_work/latents/spec.json").read_text())
    for sample in latents:
        assert sample["txt"] == by_key[sample["__key__"]]["txt"]
        raw_latents = np.load(io.BytesIO(sample["latents.npy"]), allow_pickle=False)
        assert raw_latents.dtype == np.float16
        assert raw_latents.shape[0] == 2 * spec["identity"]["autoencoder"]["latent_channels"]
        assert np.isfinite(raw_latents).all()
    picture = Image.open(io.BytesIO(images[0]["jpg"]))
    assert (picture.mode, picture.size) == ("RGB", (64, 64))


@pytest.mark.filterwarnings("ignore")  # datasets' own
def test_hugging_face_datasets_reads_images_and_latents(
    unharmed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    for folder, column in (("images", "jpg"), ("latents", "latents.npy")):
        rows = datasets.load_dataset(
            "webdataset",
            data_files={"train": shard_paths(unharmed_run, folder)},
            split="train",
            cache_dir=str(tmp_path),
        )
        assert len(rows) == len(read_samples(shard_paths(unharmed_run, folder)))
        assert column in rows.column_names
        assert rows[0]["txt"]
    ledger = datasets.load_dataset(
        "parquet",
        data_files={"train": shard_paths(unharmed_run, "ledger")},
        split="train",
        cache_dir=str(tmp_path),
    )
    assert len(ledger) == cases.NUM_ROWS


@pytest.mark.filterwarnings("ignore")  # datasets' own
def test_a_parquet_cache_holds_what_the_webdataset_cache_holds(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path
) -> None:
    import datasets

    run = tmp_path / "run"
    cases.run(cases.configuration(served_list.path, run, encode__format="parquet"))
    rows = datasets.load_dataset(
        "parquet",
        data_files={"train": shard_paths(run, "latents")},
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    tars = read_samples(shard_paths(unharmed_run, "latents"))
    assert rows["key"][:] == [sample["__key__"] for sample in tars]
    first = np.load(io.BytesIO(tars[0]["latents.npy"]), allow_pickle=False)
    assert np.array_equal(np.asarray(rows[0]["latents"], np.float16).reshape(first.shape), first)


def test_the_same_run_on_s3_has_the_same_files_and_verifies(
    s3_endpoint: S3Endpoint, served_list: ServedList, unharmed_run: Path
) -> None:
    import s3fs

    run = f"s3://{s3_endpoint.bucket}/curate-contract"
    cases.run(cases.configuration(served_list.path, run))
    filesystem = s3fs.S3FileSystem(**s3_endpoint.storage_options)
    is_linked = ("images/", "latents/", "lists/")  # a store has no links
    paths = [path for path in cases.data_files(unharmed_run) if not path.startswith(is_linked)]
    assert {path.partition("/")[0] for path in paths} == {"_work", "ledger"}
    for path in paths:
        found = filesystem.cat_file(f"{run}/{path}")
        assert found == (unharmed_run / path).read_bytes(), path
    assert verify.main([run, "--deep"]) == 0


def test_an_unharmed_run_verifies_deeply(unharmed_run: Path) -> None:
    assert verify.main([str(unharmed_run), "--deep"]) == 0
