"""The list of reasons is closed: the steps' own types name no other."""

from typing import get_args

from pipelines.rows.ledger import DECODE_REASONS, REASONS
from pipelines.steps.download.failure import FetchReason
from pipelines.steps.download.image_rejected import ImageReason


def test_every_reason_of_fetching_and_decoding_is_on_the_ledgers_list() -> None:
    assert set(get_args(FetchReason)) <= REASONS
    assert set(get_args(ImageReason)) <= set(DECODE_REASONS)
