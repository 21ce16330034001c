"""A curated run's images: kept rows alone, in an order of seed and epoch, loud where damaged."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs.tiny.drawing import draw
from pipelines.training.image_dataset import ImageDataset
from pipelines.training.image_set import ImageSetError, open_image_set, read_first
from tests.pipelines.image_run import is_kept, key_of, write_run

PICTURES = 32
KEPT = [number for number in range(PICTURES) if is_kept(number)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("images"), pictures=PICTURES)


def open_run(run: Path):
    return open_image_set(str(run), storage_options={})


def draw_keys(images, *, steps, batch_size=8, start_step=0, seed=0, num_streams=8, ranks=1):
    """Each step's keys, those of all ranks put back in the global order."""
    shares = []
    for rank in range(ranks):
        dataset = ImageDataset(
            [images],
            weights=[1.0],
            seed=seed,
            num_streams=num_streams,
            rank=rank,
            world_size=ranks,
        )
        batches = dataset.batches(batch_size=batch_size, start_step=start_step)
        shares.append([[one.key for one in batch] for batch in itertools.islice(batches, steps)])
        batches.close()
    return [
        [key for group in zip(*step, strict=True) for key in group]
        for step in zip(*shares, strict=True)
    ]


def test_only_kept_rows_are_drawn_each_once_an_epoch_with_its_own_pixels(run):
    images = open_run(run)
    dataset = ImageDataset([images], weights=[1.0], seed=3, num_streams=8)

    drawn = [one for batch in itertools.islice(dataset.batches(batch_size=8), 6) for one in batch]

    first, second = drawn[:24], drawn[24:]
    assert {one.epoch for one in first} == {0}
    assert {one.epoch for one in second} == {1}
    keys = [key_of(number) for number in KEPT]
    assert sorted(one.key for one in first) == sorted(one.key for one in second) == keys
    assert [one.key for one in first] != [one.key for one in second]
    for one in first:
        assert np.array_equal(one.pixels, draw(int(one.key, 16)).image)


def test_the_order_is_the_same_for_any_number_of_workers(run):
    images = open_run(run)

    alone = draw_keys(images, steps=7)

    assert draw_keys(images, steps=7, ranks=2) == alone
    assert draw_keys(images, steps=7, ranks=4) == alone
    assert draw_keys(images, steps=7, seed=1) != alone


def test_a_training_resumes_at_the_exact_sample(run):
    images = open_run(run)

    whole = draw_keys(images, steps=9)

    assert draw_keys(images, steps=4, start_step=5) == whole[5:]


def test_held_out_rows_are_the_first_and_are_never_drawn(run):
    images = open_run(run)

    held_out = read_first(images, 14)
    left = images.without_first(14)
    drawn = {key for step in draw_keys(left, steps=4, num_streams=2) for key in step}

    assert images.num_rows == 24
    assert left.num_rows == 10
    for pixels, number in zip(held_out, KEPT[:14], strict=True):
        assert np.array_equal(pixels, draw(number).image)
    assert drawn == {key_of(number) for number in KEPT[14:]}


def test_holding_out_everything_is_refused(run):
    with pytest.raises(ImageSetError, match="24 kept"):
        open_run(run).without_first(24)


def test_image_sets_of_two_sizes_are_refused(run, tmp_path):
    other = open_run(write_run(tmp_path, pictures=8, size=32))

    with pytest.raises(ImageSetError, match=r"64 px in .*32 px in"):
        ImageDataset([open_run(run), other], weights=[1, 1], seed=0, num_streams=1)


def test_two_sets_are_mixed_by_weight(run, tmp_path):
    other = open_run(write_run(tmp_path, pictures=8, shards=1))
    dataset = ImageDataset([open_run(run), other], weights=[3, 1], seed=0, num_streams=1)

    batch = next(dataset.batches(batch_size=1000))

    # Of 1,000 picks the small set gives 250, its 6 rows 42 times; the other's 24 rows, 32 times.
    assert max(one.epoch for one in batch) == 41
    assert sum(one.epoch > 31 for one in batch) == 250 - 32 * 6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no run", "no curated run"),
        ("no tar", "is missing"),
        ("short tar", "bytes, its manifest says"),
        ("unfinished", "no curated run with complete"),
    ],
)
def test_a_bad_run_is_refused_when_opened(run, tmp_path, damage, message):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    tar = sorted((copy / "_work/images").glob("*.tar"))[1]
    if damage == "no run":
        shutil.rmtree(copy)
    elif damage == "no tar":
        tar.unlink()
    elif damage == "short tar":
        tar.write_bytes(tar.read_bytes()[:-512])
    else:
        (copy / "revision.json").unlink()

    with pytest.raises(ImageSetError, match=message):
        open_run(copy)


def test_a_damaged_crop_is_named_by_its_key(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    tar = sorted((copy / "_work/images").glob("*.tar"))[0]
    content = bytearray(tar.read_bytes())
    content[512:544] = bytes(32)
    tar.write_bytes(content)

    with pytest.raises(ImageSetError, match=f"{key_of(0)}.*does not decode"):
        read_first(open_run(copy), 3)


def test_a_kept_row_that_the_tar_lacks_is_named(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    tar = sorted((copy / "_work/images").glob("*.tar"))[0]
    content = tar.read_bytes()
    renamed = content.replace(f"{key_of(2)}.png".encode(), f"{key_of(2)}.pn_".encode())
    header = renamed.index(f"{key_of(2)}.pn_".encode())
    block = bytearray(renamed[header : header + 512])
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    tar.write_bytes(renamed[:header] + bytes(block) + renamed[header + 512 :])

    with pytest.raises(ImageSetError, match=f"not in it, {key_of(2)}"):
        read_first(open_run(copy), 3)
