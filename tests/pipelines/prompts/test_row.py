"""A prompt's settings: each in its type, or a reason of the closed list; keys follow from them."""

from typing import Any

import pytest

from pipelines.prompts.row import parse_prompt
from pipelines.rows.ledger import REASONS


def parse(prompt: str | None = "a star", **raw: Any):
    return parse_prompt(prompt, raw, num_images=1)


def test_settings_are_read_as_numbers_whatever_the_list_wrote() -> None:
    row = parse(seed="9223372036854775807", width=64.0, guidance_scale="2.5", sampler="ddim")
    assert row.settings == {
        "seed": 2**63 - 1,
        "width": 64,
        "guidance_scale": 2.5,
        "sampler": "ddim",
        "num_images": 1,
    }


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"seed": -1}, "seed_invalid"),
        ({"seed": 1.5}, "seed_invalid"),
        ({"seed": True}, "seed_invalid"),
        ({"num_images": 0}, "num_images_invalid"),
        ({"image_index": -1}, "num_images_invalid"),
        ({"num_inference_steps": "twenty"}, "num_inference_steps_invalid"),
        ({"guidance_scale": float("inf")}, "guidance_scale_invalid"),
        ({"width": 10**9}, "size_invalid"),
        ({"strength": 1.01}, "strength_invalid"),
        ({"key": "a.b"}, "key_invalid"),
        ({"key": "x" * 81}, "key_invalid"),
        ({"key": "x\n"}, "key_invalid"),
    ],
)
def test_what_makes_no_sense_is_a_reason(raw: dict[str, Any], reason: str) -> None:
    row = parse(**raw)
    assert row.reason == reason
    assert reason in REASONS
    assert row.error_message
    assert len(row.image_indices) == 1


def test_a_row_without_text_is_refused_but_for_one_that_starts_from_an_image() -> None:
    assert parse(" ").reason == parse(None).reason == "prompt_missing"
    assert parse(None, init_key="0123456789abcdef").reason is None


def test_the_key_follows_from_prompt_and_settings_and_not_from_how_many() -> None:
    key = parse(seed=1).key
    assert parse(seed="1").key == parse(seed=1.0).key == parse(seed=1, num_images=5).key == key
    others = [parse(), parse(seed=2), parse("a ring", seed=1), parse(seed=1, negative_prompt="x")]
    assert len({key, *(row.key for row in others)}) == 5
    assert parse(seed=1, key="mine").key == "mine"


def test_the_images_of_a_row_are_numbered() -> None:
    assert list(parse(num_images=3).image_indices) == [0, 1, 2]
    assert list(parse(image_index=7).image_indices) == [7]
