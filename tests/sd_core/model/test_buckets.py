"""Buckets: what is cut away, which size is nearest, and what a configuration may say."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_core.model.buckets import Bucket, BucketsConfig, bucket_of

_MILLION = 1024 * 1024


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (BucketsConfig(pixels=512 * 512), 5),
        (BucketsConfig(pixels=_MILLION), 13),
        (BucketsConfig(preset="sd3"), 13),
        (BucketsConfig(preset="sdxl"), 41),
        (BucketsConfig(sizes=((512, 768),)), 1),
    ],
)
def test_the_list_is_in_order_of_aspect_within_its_area(config: BucketsConfig, count: int) -> None:
    buckets = config.buckets()
    assert len(buckets) == count
    aspects = [bucket.width / bucket.height for bucket in buckets]
    assert aspects == sorted(aspects)
    if not config.sizes:
        assert {Bucket(width=b.height, height=b.width) for b in buckets} == set(buckets)
        largest = config.pixels or _MILLION
        assert all(bucket.width * bucket.height <= largest for bucket in buckets)
        assert all(side % 64 == 0 for b in buckets for side in (b.width, b.height))


@given(width=st.integers(1, 20_000), height=st.integers(1, 20_000))
def test_the_nearest_aspect_cuts_least_and_covers_its_bucket(width: int, height: int) -> None:
    buckets = BucketsConfig(pixels=_MILLION).buckets()
    found = bucket_of(width, height, buckets)
    aspect = width / height
    ratios = [bucket.width / bucket.height / aspect for bucket in buckets]
    assert found.kept == pytest.approx(max(min(ratio, 1 / ratio) for ratio in ratios))
    left, top, wide, high = found.box
    assert wide == pytest.approx(width) or high == pytest.approx(height)
    assert min(left, top) >= -1e-6
    assert wide * found.enlargement == pytest.approx(found.bucket.width)
    assert high * found.enlargement == pytest.approx(found.bucket.height)


def test_real_sizes_lose_a_quarter_in_a_square_and_under_8_percent_in_buckets(
    shared_data: Path,
) -> None:
    text = (shared_data / "metadata" / "laion_aesthetics_image_sizes.json").read_text()
    sizes = [(one["width"], one["height"]) for one in json.loads(text)]

    def cut(config: BucketsConfig) -> float:
        return sum(1 - bucket_of(*size, config.buckets()).kept for size in sizes) / len(sizes)

    assert cut(BucketsConfig(sizes=((512, 512),))) > 0.2
    assert cut(BucketsConfig(pixels=512 * 512)) < 0.08
    assert cut(BucketsConfig(preset="sdxl")) < 0.03


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "set preset, pixels or sizes"),
        ({"pixels": 10_000, "aspect": 1.0}, "0 buckets; 1 to 256 are allowed"),
        ({"pixels": 4096**2, "step": 8, "aspect": 16.0}, "buckets; 1 to 256 are allowed"),
        ({"sizes": ((65536, 65536),)}, "sides of at most 4096 pixels"),
        ({"preset": "sdxl", "pixels": _MILLION}, "one of preset and pixels"),
        ({"sizes": ((500, 512),)}, r"sizes \[\[500, 512\]\]: no positive multiples of step, 64"),
    ],
)
def test_a_list_that_cannot_be_is_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BucketsConfig(**options)
