"""Rows grouped so that a batch has one shape and one series of steps, and filled to one size."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipelines.steps.generate.rows import ImageRow
from sd_core.sampling.samplers import SamplerName


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What all rows of a batch share; guidance scale and prompt are each row's own."""

    width: int
    height: int
    num_inference_steps: int
    sampler: SamplerName
    is_guided: bool
    strength: float | None
    is_masked: bool


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """At most the batch size of rows; sampling fills it up."""

    settings: BatchSettings
    rows: Sequence[ImageRow]


def settings_of(row: ImageRow) -> BatchSettings:
    return BatchSettings(
        width=row.width,
        height=row.height,
        num_inference_steps=row.num_inference_steps,
        sampler=row.sampler,
        is_guided=row.is_guided,
        strength=row.strength,
        is_masked=row.mask is not None,
    )


def group_rows(rows: Iterable[ImageRow], *, batch_size: int) -> Iterator[RowBatch]:
    """Batches of rows with the same settings; groups in the order of their first row."""
    groups: dict[BatchSettings, list[ImageRow]] = {}
    for row in rows:
        groups.setdefault(settings_of(row), []).append(row)
    for settings, members in groups.items():
        for start in range(0, len(members), batch_size):
            yield RowBatch(settings=settings, rows=members[start : start + batch_size])
