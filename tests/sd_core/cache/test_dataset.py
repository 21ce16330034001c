"""The training dataset: its order, its mixture, resuming."""

import os
import pickle
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from jobs.bench.s3_emulator import S3Endpoint
from sd_core.cache import dataset as dataset_module
from sd_core.cache.dataset import DrawnSample, TrainingDataset
from sd_core.cache.latent_cache import CacheShard, LatentCache, open_cache
from sd_core.cache.reading import open_shard_reader
from sd_core.cache.shard_format import ShardReader
from sd_core.cache.spec import CacheMismatchError
from tests.sd_core.cache.caches import write_cache
from tests.sd_core.cache.cases import make_spec
from tests.sd_core.cache.test_shards import assert_equal

FORMATS = ["webdataset", "parquet"]


def make_cache(
    tmp_path: Path, *, shard_rows: Sequence[int] = (40, 25, 35), seed: int = 0, **spec: Any
) -> LatentCache:
    run = tmp_path / f"run-{seed}"
    write_cache(str(run), tmp_path, make_spec(**spec), shard_rows=list(shard_rows), seed=seed)
    return open_cache(str(run / "latents"))


def draw(
    caches: Sequence[LatentCache], *, steps: int, batch_size: int, start_step: int = 0, **more: Any
) -> list[DrawnSample]:
    options: dict[str, Any] = {"weights": [1.0] * len(caches), "seed": 3, "num_streams": 8, **more}
    batches = TrainingDataset(caches, **options).batches(
        batch_size=batch_size, start_step=start_step
    )
    found = [sample for batch in islice(batches, steps) for sample in batch]
    batches.close()
    return found


def places(samples: Sequence[DrawnSample]) -> list[tuple[int, int, int, str]]:
    return [(s.index, s.cache_index, s.epoch, s.sample.key) for s in samples]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt_embeds", [True, False])
def test_every_row_comes_once_an_epoch_as_it_was_written(
    tmp_path: Path, kind: str, prompt_embeds: bool
) -> None:
    spec = make_spec(format=kind, prompt_embeds=prompt_embeds)
    samples = write_cache(str(tmp_path / "run"), tmp_path, spec, shard_rows=[40, 25, 31])
    cache = open_cache(str(tmp_path / "run" / "latents"))
    drawn = draw([cache], steps=24, batch_size=8)  # two epochs of 96 rows
    written = {sample.key: sample for sample in samples}
    for epoch in range(2):
        ours = [one.sample for one in drawn if one.epoch == epoch]
        assert sorted(sample.key for sample in ours) == sorted(written)
        for sample in ours:
            assert_equal(sample, written[sample.key])
    first, second = ([one.sample.key for one in drawn if one.epoch == epoch] for epoch in range(2))
    assert first != second


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_order_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, world_size: int
) -> None:
    caches = [make_cache(tmp_path), make_cache(tmp_path, seed=1, shard_rows=[9, 30])]
    options: dict[str, Any] = {"steps": 6, "batch_size": 24, "weights": [3, 1]}
    alone = places(draw(caches, **options))
    found = [
        place
        for rank in range(world_size)
        for place in places(draw(caches, **options, rank=rank, world_size=world_size))
    ]
    assert sorted(found) == alone
    assert [index for index, *_ in alone] == list(range(6 * 24))


@pytest.mark.parametrize("start_step", [1, 7, 60, 333])
def test_resuming_at_a_step_continues_the_uninterrupted_order(
    tmp_path: Path, start_step: int
) -> None:
    caches = [make_cache(tmp_path), make_cache(tmp_path, seed=1, shard_rows=[9, 30])]
    whole = places(draw(caches, steps=start_step + 5, batch_size=12))
    resumed = places(draw(caches, steps=5, batch_size=12, start_step=start_step))
    assert resumed == whole[start_step * 12 :]


def test_the_mixture_is_exact_in_every_thousand_picks_of_a_stream(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path), make_cache(tmp_path, seed=1, shard_rows=[9, 30])]
    drawn = draw(caches, steps=40, batch_size=100, weights=[2, 1], num_streams=2)
    for stream in range(2):
        ours = [one for one in drawn if one.index % 2 == stream]
        for block in range(2):
            counts = Counter(one.cache_index for one in ours[block * 1000 : block * 1000 + 1000])
            assert counts == {0: 667, 1: 333}


def test_no_rank_reads_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(tmp_path, shard_rows=[10] * 32)
    opened: set[str] = set()

    def open_and_note(cache: LatentCache, shard: CacheShard, **options: Any) -> ShardReader:
        opened.add(shard.path)
        return open_shard_reader(cache, shard, **options)

    monkeypatch.setattr(dataset_module, "open_shard_reader", open_and_note)
    counts = []
    for rank in range(4):
        opened.clear()
        draw([cache], steps=40, batch_size=8, rank=rank, world_size=4)  # one epoch
        counts.append(len(opened))
    assert max(counts) <= 12  # 8 of 32, and those that its two ranges begin and end in
    assert sum(counts) >= 32


@pytest.mark.parametrize("kind", FORMATS)
def test_resuming_reads_nothing_that_went_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cache = make_cache(tmp_path, shard_rows=[50] * 4, format=kind)
    read: list[str] = []

    def open_and_note(cache: LatentCache, shard: CacheShard, **options: Any) -> ShardReader:
        read.append(shard.path)
        return open_shard_reader(cache, shard, **options)

    monkeypatch.setattr(dataset_module, "open_shard_reader", open_and_note)
    draw([cache], steps=1, batch_size=1, start_step=1_000_003)
    assert len(read) == 1


@pytest.mark.parametrize("kind", FORMATS)
def test_a_remote_cache_gives_what_a_local_one_does(tmp_path: Path, kind: str) -> None:
    spec, shard_rows = make_spec(format=kind), [9, 1, 12, 30, 3, 3, 3, 3]
    url = f"memory://{tmp_path}/run"
    write_cache(url, tmp_path, spec, shard_rows=shard_rows)
    write_cache(str(tmp_path / "run"), tmp_path, spec, shard_rows=shard_rows)
    remote, local = open_cache(f"{url}/latents"), open_cache(str(tmp_path / "run" / "latents"))
    found, expected = (draw([cache], steps=20, batch_size=16) for cache in (remote, local))
    assert places(found) == places(expected)
    for one, other in zip(found, expected, strict=True):
        assert_equal(one.sample, other.sample)


@pytest.mark.parametrize("kind", FORMATS)
def test_many_small_shards_are_read_with_few_open(tmp_path: Path, kind: str) -> None:
    cache = make_cache(tmp_path, shard_rows=[1] * 150, format=kind)
    before = len(os.listdir("/proc/self/fd"))
    batches = TrainingDataset([cache], weights=[1.0], seed=0, num_streams=8).batches(batch_size=144)
    for epoch in range(2):
        batch = next(batches)
        assert len({one.sample.key for one in batch}) == 144
        assert {one.epoch for one in batch} == {epoch}
        assert len(os.listdir("/proc/self/fd")) - before <= 8 + 8  # one a stream, and the idle
    batches.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_cache_of_few_rows_lowers_the_number_of_streams(tmp_path: Path) -> None:
    caches = [make_cache(tmp_path), make_cache(tmp_path, seed=1, shard_rows=[2, 1])]
    dataset = TrainingDataset(caches, weights=[9, 1], seed=0)
    assert dataset.num_streams == 2
    drawn = draw(caches, steps=40, batch_size=5, num_streams=64)
    assert {one.cache_index for one in drawn} == {0, 1}
    with pytest.raises(ValueError, match=r"4 processes .* 2 streams .* smallest cache has 3 rows"):
        TrainingDataset(caches, weights=[9, 1], seed=0, world_size=4)


def test_caches_of_several_forms_and_formats_are_mixed(tmp_path: Path) -> None:
    caches = [
        make_cache(tmp_path),
        make_cache(tmp_path, seed=1, form="mean", format="parquet", prompt_embeds=False),
    ]
    for one in draw(caches, steps=10, batch_size=8):
        assert one.sample.raw_latents.shape == caches[one.cache_index].spec.latents_shapes[0]
        assert (one.sample.prompt_embeds is None) == (one.cache_index == 1)


def test_caches_that_differ_are_refused_before_the_first_batch(tmp_path: Path) -> None:
    identity = make_spec().identity.model_dump()
    identity["text_encoder"]["pad_token_id"] = 0
    caches = [make_cache(tmp_path), make_cache(tmp_path, seed=1, identity=identity)]
    with pytest.raises(CacheMismatchError, match=r"identity\.text_encoder\.pad_token_id: 0 in"):
        TrainingDataset(caches, weights=[1, 1], seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": []}, "1 caches and 0 weights"),
        ({"weights": [0.0]}, "must be a positive number"),
        ({"seed": -1}, "the seed is at least 0"),
        ({"num_streams": 0}, "num_streams at least 1"),
        ({"rank": 2, "world_size": 2}, "the rank under world_size"),
        ({"world_size": 3}, "3 processes do not divide 64 streams"),
        ({"scratch": Path("/no/such/folder")}, "scratch /no/such/folder is not a folder"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    cache = make_cache(tmp_path)
    with pytest.raises(ValueError, match=message):
        TrainingDataset([cache], **{"weights": [1.0], "seed": 0, **options})


def test_a_batch_that_does_not_divide_among_the_ranks_is_refused_at_once(tmp_path: Path) -> None:
    dataset = TrainingDataset([make_cache(tmp_path)], weights=[1.0], seed=0, world_size=2)
    for batch_size, start_step in [(7, 0), (0, 0), (8, -1)]:
        with pytest.raises(ValueError, match="multiple of the 2 processes"):
            dataset.batches(batch_size=batch_size, start_step=start_step)


def test_a_dataset_may_be_sent_to_another_process(tmp_path: Path) -> None:
    dataset = TrainingDataset([make_cache(tmp_path)], weights=[1.0], seed=0)
    sent: TrainingDataset = pickle.loads(pickle.dumps(dataset))
    one, other = dataset.batches(batch_size=16), sent.batches(batch_size=16)
    assert places(next(one)) == places(next(other))
    for batches in (one, other):
        batches.close()


def test_two_iterators_of_one_dataset_do_not_disturb_each_other(tmp_path: Path) -> None:
    dataset = TrainingDataset([make_cache(tmp_path)], weights=[1.0], seed=0)
    one, other = dataset.batches(batch_size=16), dataset.batches(batch_size=16, start_step=1)
    next(one)
    for _ in range(12):
        assert places(next(one)) == places(next(other))
    for batches in (one, other):
        batches.close()


def test_a_cache_on_s3_gives_what_a_local_one_does(tmp_path: Path, s3_endpoint: S3Endpoint) -> None:
    url = f"s3://{s3_endpoint.bucket}/training"
    write_cache(url, tmp_path, make_spec(), shard_rows=[30, 20, 9])
    remote = open_cache(f"{url}/latents", storage_options=s3_endpoint.storage_options)
    write_cache(str(tmp_path / "run"), tmp_path, make_spec(), shard_rows=[30, 20, 9])
    local = open_cache(str(tmp_path / "run" / "latents"))
    found, expected = (draw([cache], steps=10, batch_size=16) for cache in (remote, local))
    assert places(found) == places(expected)
    for one, other in zip(found, expected, strict=True):
        assert_equal(one.sample, other.sample)
