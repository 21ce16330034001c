"""Encoding the kept rows into a cache."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.run.cache_files import publish_cache
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.steps.encode import EncodeConfig, EncodeStep
from sd_core.cache.formats import iterate_shard
from sd_core.cache.latents import posterior_mean, scale_latents
from sd_core.cache.samples import LatentSample, read_empty_caption
from sd_core.cache.spec import CacheSpec, read_spec
from sd_core.model.autoencoder import load_autoencoder
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.buckets import Bucket
from sd_core.model.clip import ClipConfig
from sd_core.model.text_encoder import TextEncoderConfig, encode_captions, load_text_encoder
from tests import model_cases, run_cases

FINGERPRINT = "f" * 16


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


@pytest.fixture
def config(tmp_path: Path) -> EncodeConfig:
    clip = model_cases.clip_folder(tmp_path / "clip")
    return EncodeConfig(
        autoencoder=AutoencoderConfig(
            model=str(model_cases.autoencoder_folder(tmp_path / "autoencoder"))
        ),
        text_encoder=TextEncoderConfig(clip=ClipConfig(name=str(clip))),
        batch_size=3,
    )


def make_step(store: RunStore, config: EncodeConfig, *, num_shards: int = 1) -> EncodeStep:
    return EncodeStep(
        store,
        fingerprint=FINGERPRINT,
        images=Committed(store, "download", "d" * 16),
        verdicts=Committed(store, "select", "e" * 16),
        num_image_shards=num_shards,
        config=config,
        sizes=(Bucket(width=32, height=32),),
        torch_threads=1,
    )


def encode(store: RunStore, config: EncodeConfig, *, num_shards: int = 1) -> Manifest:
    step = make_step(store, config, num_shards=num_shards)
    step.open()
    try:
        return step.run(0)
    finally:
        step.close()
        publish_cache(Committed(store, "encode", FINGERPRINT))


def spec_of(store: RunStore) -> CacheSpec:
    return read_spec(store.read_bytes("latents/spec.json"), where="spec.json")


def read(store: RunStore, manifest: Manifest) -> list[LatentSample]:
    entry = manifest.file("latents")
    assert entry is not None
    with store.open(entry.path) as stream:
        return list(iterate_shard(stream, spec_of(store), name=entry.path))


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_the_kept_rows_and_no_others_are_in_the_cache(
    store: RunStore, config: EncodeConfig, tmp_path: Path, form: str
) -> None:
    shard = run_cases.rows(11)
    run_cases.commit_download(store, 0, shard, tmp_path)
    run_cases.commit_ledger(store, 0, shard, tmp_path)
    manifest = encode(store, config.model_copy(update={"format": form}))
    samples = read(store, manifest)
    kept = [row for row in shard if row.kept]
    assert [sample.key for sample in samples] == [row.key for row in kept]
    assert [sample.caption for sample in samples] == [row.caption or "" for row in kept]
    assert manifest.rows_in == manifest.kept == len(kept) > 0
    assert samples[0].attributes["shard_id"] == 0
    assert samples[0].attributes["original_width"] == 32


def test_latents_and_embeddings_are_the_models_own(
    store: RunStore, config: EncodeConfig, tmp_path: Path
) -> None:
    shard = run_cases.rows(4)
    run_cases.commit_download(store, 0, shard, tmp_path)
    run_cases.commit_ledger(store, 0, shard, tmp_path)
    samples = read(store, encode(store, config.model_copy(update={"dtype": "float32"})))
    autoencoder = load_autoencoder(config.autoencoder, device="cpu")
    text_encoder = load_text_encoder(config.text_encoder, device="cpu")
    for sample, row in zip(samples, [row for row in shard if row.kept], strict=True):
        assert row.pixels is not None
        images = torch.from_numpy(row.pixels).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.inference_mode():
            moments = autoencoder.module.encode(images).latent_dist.parameters[0]
        np.testing.assert_allclose(sample.raw_latents, moments, atol=1e-5)
        encoded = encode_captions(text_encoder, [row.caption or ""])
        np.testing.assert_array_equal(sample.input_ids, encoded.input_ids[0])
        assert sample.prompt_embeds is not None
        np.testing.assert_allclose(sample.prompt_embeds, encoded.prompt_embeds[0], atol=1e-5)


def test_scaled_once_at_load(store: RunStore, config: EncodeConfig, tmp_path: Path) -> None:
    shard = run_cases.rows(1)
    run_cases.commit_download(store, 0, shard, tmp_path)
    run_cases.commit_ledger(store, 0, shard, tmp_path)
    (sample,) = read(store, encode(store, config))
    spec = spec_of(store)
    assert spec.identity.autoencoder.scaling_factor == 0.18215
    raw = posterior_mean(torch.from_numpy(sample.raw_latents).float())
    torch.testing.assert_close(scale_latents(raw, spec), raw * 0.18215)


def test_the_same_rows_give_the_same_bytes(config: EncodeConfig, tmp_path: Path) -> None:
    shard = run_cases.rows(7)
    digests = set()
    for name in ("one", "two"):
        store = RunStore(str(tmp_path / name))
        run_cases.commit_download(store, 0, shard, tmp_path)
        run_cases.commit_ledger(store, 0, shard, tmp_path)
        entry = encode(store, config).file("latents")
        assert entry is not None
        digests.add(entry.sha256)
    assert len(digests) == 1


def test_latents_that_are_not_finite_are_rejected_rows(
    store: RunStore, config: EncodeConfig, tmp_path: Path
) -> None:
    shard = run_cases.rows(4)
    run_cases.commit_download(store, 0, shard, tmp_path)
    run_cases.commit_ledger(store, 0, shard, tmp_path)
    step = make_step(store, config)
    step.open()
    assert step._models is not None
    module = step._models.autoencoder.module
    module.quant_conv.bias[0] = 1e5  # overflows float16
    manifest = step.run(0)
    kept = sum(row.kept for row in shard)
    assert (manifest.kept, manifest.dropped) == (0, {"latents_not_finite": kept})
    assert manifest.file("latents") is None
    entry = manifest.file("latents/rejects")
    assert entry is not None
    rejects = read_table(store, entry.path).to_pylist()
    assert [reject["key"] for reject in rejects] == [row.key for row in shard if row.kept]


def test_a_shard_spans_several_download_shards(
    store: RunStore, config: EncodeConfig, tmp_path: Path
) -> None:
    shards = [run_cases.rows(4, seed=1), run_cases.rows(4, seed=2), run_cases.rows(4, seed=3)]
    for shard_id, shard in enumerate(shards):
        run_cases.commit_download(store, shard_id, shard, tmp_path)
        run_cases.commit_ledger(store, shard_id, shard, tmp_path)
    grouped = config.model_copy(update={"download_shards_per_file": 2})
    step = make_step(store, grouped, num_shards=3)
    step.open()
    first, second = step.run(0), step.run(1)
    publish_cache(Committed(store, "encode", FINGERPRINT))
    expected = [row.key for shard in shards for row in shard if row.kept]
    found = [sample.key for manifest in (first, second) for sample in read(store, manifest)]
    assert found == expected
    assert second.rows_in == step.rows_in(1) == sum(row.kept for row in shards[2])


def test_nothing_kept_is_an_empty_commit(
    store: RunStore, config: EncodeConfig, tmp_path: Path
) -> None:
    shard = [run_cases.Row(key="0" * 16, pixels=None, kept=False)]
    run_cases.commit_download(store, 0, shard, tmp_path)
    run_cases.commit_ledger(store, 0, shard, tmp_path)
    manifest = encode(store, config)
    assert (manifest.files, manifest.rows_in, manifest.kept) == ((), 0, 0)


def test_the_empty_caption_is_published_once(
    store: RunStore, config: EncodeConfig, tmp_path: Path
) -> None:
    run_cases.commit_download(store, 0, [], tmp_path)
    run_cases.commit_ledger(store, 0, [], tmp_path)
    encode(store, config)
    content = store.read_bytes("latents/empty_caption.safetensors")
    empty = read_empty_caption(content, spec_of(store))
    encoded = encode_captions(load_text_encoder(config.text_encoder, device="cpu"), [""])
    np.testing.assert_array_equal(empty.input_ids, encoded.input_ids[0])
    np.testing.assert_allclose(empty.prompt_embeds, encoded.prompt_embeds[0], atol=1e-6)
