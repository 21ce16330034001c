"""Steps of units: each row counts once, whatever the workers; those that fill up count nothing."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from sd_core.cache.unit_dataset import UnitDataset
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.unit_batches import collate_units, rows_per_unit_of
from tests.sd_core.cache.test_unit_dataset import make_cache


def _value(key: str) -> float:
    return int(key, 16) ** 0.5


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_loss_of_a_step_is_the_mean_over_the_rows_that_count(
    tmp_path: Path, world_size: int
) -> None:
    cache = make_cache(tmp_path, shard_rows=[21, 10])
    found, expected = [0.0] * 12, [0.0] * 12
    for rank in range(world_size):
        dataset = UnitDataset(
            [cache],
            weights=[1],
            rows_per_unit=4,
            seed=0,
            num_streams=4,
            rank=rank,
            world_size=world_size,
        )
        steps = dataset.steps(units_per_step=4)
        for step, drawn in enumerate(islice(steps, 12)):
            rows = dataset.count_rows(step, units_per_step=4)
            batch = collate_units(
                drawn,
                [cache],
                rows_a_worker=rows / world_size,
                seed=0,
                objective=ObjectiveConfig(),
            ).to(torch.device("cpu"))
            for piece in batch.pieces(1):
                assert len({tuple(one.shape) for one in piece.batch.latents}) == 1  # type: ignore[attr-defined]
                losses = torch.tensor([_value(key) for key in piece.batch.keys])
                found[step] += float(piece.loss(losses)) / world_size
            for unit in drawn:
                counted = unit.samples[: unit.num_rows]
                expected[step] += sum(_value(sample.key) for sample in counted) / rows
        steps.close()
    assert found == pytest.approx(expected)


def test_rows_of_a_unit_follow_from_the_batch_alone() -> None:
    assert [rows_per_unit_of(batch) for batch in (1, 6, 8, 12, 64, 13)] == [1, 6, 8, 6, 8, 1]
