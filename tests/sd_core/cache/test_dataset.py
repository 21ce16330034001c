"""The training dataset: its order, its mixture, resuming."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from sd_core.cache.dataset import DrawnSample, TrainingDataset
from sd_core.cache.latent_cache import LatentCache, open_cache
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
    batches.close()  # type: ignore[attr-defined]
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
