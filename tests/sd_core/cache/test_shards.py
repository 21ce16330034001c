"""Latent shards: round trips, foreign readers, damage."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from sd_core.cache.formats import CACHE_FORMATS, iterate_shard, open_shard_writer
from sd_core.cache.samples import (
    CacheShardError,
    EmptyCaption,
    LatentSample,
    read_empty_caption,
)
from sd_core.cache.spec import CacheSpec
from tests.sd_core.cache.cases import make_samples, make_spec

FORMATS = ["webdataset", "parquet"]


def write(path: Path, samples: list[LatentSample], spec: CacheSpec) -> Path:
    with open_shard_writer(path, spec) as writer:
        for sample in samples:
            assert writer.write(sample)
    return path


def read(path: Path, spec: CacheSpec) -> list[LatentSample]:
    with path.open("rb") as stream:
        return list(iterate_shard(stream, spec, name=path.name))


def assert_equal(found: LatentSample, expected: LatentSample) -> None:
    np.testing.assert_array_equal(found.raw_latents, expected.raw_latents)
    np.testing.assert_array_equal(found.input_ids, expected.input_ids)
    assert found.raw_latents.dtype == expected.raw_latents.dtype
    assert (found.prompt_embeds is None) == (expected.prompt_embeds is None)
    if expected.prompt_embeds is not None:
        np.testing.assert_array_equal(found.prompt_embeds, expected.prompt_embeds)
    assert found.key == expected.key
    assert found.caption == expected.caption
    assert dict(found.attributes) == dict(expected.attributes)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("form", ["moments", "mean"])
@pytest.mark.parametrize("prompt_embeds", [True, False])
def test_samples_round_trip(
    tmp_path: Path, kind: str, dtype: str, form: str, prompt_embeds: bool
) -> None:
    spec = make_spec(format=kind, dtype=dtype, form=form, prompt_embeds=prompt_embeds)
    samples = make_samples(130, spec)  # three row groups
    found = read(write(tmp_path / "shard", samples, spec), spec)
    assert len(found) == 130
    for one, other in zip(found, samples, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_samples_give_the_same_bytes(tmp_path: Path, kind: str) -> None:
    spec = make_spec(format=kind)
    one = write(tmp_path / "one", make_samples(70, spec), spec).read_bytes()
    assert write(tmp_path / "two", make_samples(70, spec), spec).read_bytes() == one


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 7e4])
def test_what_is_not_finite_as_stored_is_reported_and_not_written(
    tmp_path: Path, kind: str, bad: float
) -> None:
    spec = make_spec(format=kind)
    good = make_samples(3, spec)
    latents = good[1].raw_latents.astype(np.float32)
    latents[0, 0, 0] = bad  # 7e4 is finite in float32, not in float16
    with open_shard_writer(tmp_path / "shard", spec) as writer:
        wrote = [writer.write(s) for s in (good[0], replace(good[1], raw_latents=latents), good[2])]
    assert wrote == [True, False, True]
    assert writer.num_written == 2
    assert [sample.key for sample in read(tmp_path / "shard", spec)] == [good[0].key, good[2].key]


def test_embeddings_that_are_not_finite_are_reported_too(tmp_path: Path) -> None:
    spec = make_spec()
    (sample,) = make_samples(1, spec)
    assert sample.prompt_embeds is not None
    sample.prompt_embeds[0, 0] = np.nan
    with open_shard_writer(tmp_path / "shard", spec) as writer:
        assert not writer.write(sample)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_sample_of_another_shape_is_refused(tmp_path: Path, kind: str) -> None:
    spec = make_spec(format=kind)
    (sample,) = make_samples(1, make_spec(format=kind, resolution_px=32))
    message = r"latents is float16 \(8, 8, 8\), the spec says float16 \(8, 4, 4\)"
    with (
        open_shard_writer(tmp_path / "shard", spec) as writer,
        pytest.raises(CacheShardError, match=message),
    ):
        writer.write(sample)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_shard_of_another_spec_is_refused_when_read(tmp_path: Path, kind: str) -> None:
    spec = make_spec(format=kind)
    path = write(tmp_path / "shard", make_samples(2, spec), spec)
    with pytest.raises(CacheShardError, match="shard: "):
        read(path, make_spec(format=kind, form="mean"))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_damage_is_named_with_the_shard(tmp_path: Path, kind: str, damage: str) -> None:
    spec = make_spec(format=kind)
    path = write(tmp_path / "000003-abc", make_samples(20, spec), spec)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100] if damage == "truncated" else b"x" * 5000)
    with pytest.raises(CacheShardError, match="000003-abc: "):
        read(path, spec)


def test_a_flipped_bit_in_parquet_is_found(tmp_path: Path) -> None:
    spec = make_spec(format="parquet")
    path = write(tmp_path / "shard", make_samples(20, spec), spec)
    content = bytearray(path.read_bytes())
    latents = make_samples(20, spec)[7].raw_latents.tobytes()
    content[content.index(latents) + 10] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheShardError, match=r"shard: damaged Parquet: .*CRC"):
        read(path, spec)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_it(tmp_path: Path) -> None:
    spec = make_spec()
    samples = make_samples(5, spec)
    path = write(tmp_path / "000000.tar", samples, spec)
    found = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
    gc.collect()  # webdataset leaves its file open, and pytest would tell the next test
    assert [sample["__key__"] for sample in found] == [sample.key for sample in samples]
    for one, other in zip(found, samples, strict=True):
        np.testing.assert_array_equal(one["latents.npy"], other.raw_latents)
        np.testing.assert_array_equal(one["input_ids.npy"], other.input_ids)
        np.testing.assert_array_equal(one["prompt_embeds.npy"], other.prompt_embeds)
        assert one["txt"] == other.caption
        assert one["json"]["original_width"] == 640


@pytest.mark.parametrize("kind", FORMATS)
def test_hugging_face_datasets_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import datasets

    spec = make_spec(format=kind)
    samples = make_samples(5, spec)
    path = write(tmp_path / f"000000{CACHE_FORMATS[kind].suffix}", samples, spec)
    found = datasets.load_dataset(
        kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    ).with_format("numpy")
    assert len(found) == 5
    latents, key = ("latents.npy", "__key__") if kind == "webdataset" else ("latents", "key")
    for one, other in zip(found, samples, strict=True):
        assert one[key] == other.key
        values = np.asarray(one[latents], dtype=np.float16).reshape(spec.latents_shapes[0])
        np.testing.assert_array_equal(values, other.raw_latents)


def test_the_empty_caption_round_trips() -> None:
    spec = make_spec()
    caption = EmptyCaption(
        input_ids=np.arange(6, dtype=np.int32),
        prompt_embeds=np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32),
        pooled_prompt_embeds=np.ones(5, np.float32),
    )
    found = read_empty_caption(caption.to_bytes(), spec)
    np.testing.assert_array_equal(found.prompt_embeds, caption.prompt_embeds)
    np.testing.assert_array_equal(found.input_ids, caption.input_ids)
    assert caption.to_bytes() == found.to_bytes()
    with pytest.raises(CacheShardError, match="cannot be read"):
        read_empty_caption(b"PK\x03\x04", spec)
    tree = spec.model_dump()
    tree["identity"]["text_encoder"]["token_length"] = 7
    longer = CacheSpec.model_validate(tree)
    with pytest.raises(CacheShardError, match=r"embeddings of \(6, 5\), the spec says \(7, 5\)"):
        read_empty_caption(caption.to_bytes(), longer)


def test_a_whole_tar_is_whole_wherever_its_end_falls_in_the_buffer(tmp_path: Path) -> None:
    spec = make_spec()
    for size in range(40):  # the members end at every block of tarfile's 10 KiB buffer
        (sample,) = make_samples(1, spec)
        padded = replace(sample, caption="x" * (512 * size + 1))
        path = write(tmp_path / "shard.tar", [padded], spec)
        assert len(read(path, spec)) == 1


def test_a_tar_cut_between_two_samples_is_damaged(tmp_path: Path) -> None:
    spec = make_spec()
    whole = write(tmp_path / "whole.tar", make_samples(2, spec), spec).read_bytes()
    start = whole.index(b"0000000000000001.latents.npy")
    (tmp_path / "cut.tar").write_bytes(whole[:start])
    with pytest.raises(CacheShardError, match=r"cut\.tar: damaged tar: cut off at byte"):
        read(tmp_path / "cut.tar", spec)
