"""Scoring a committed shard."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from pipelines.rows.ledger import SCORE_FACTS
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, ShardError
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.steps.score import HeadConfig, ScoreConfig, ScoreStep, captions
from pipelines.steps.score.config import ScoreClipConfig
from pipelines.steps.score.score import load_score_models, score_images
from sd_core.model.clip import Clip
from sd_core.model.clip_text import CaptionSteps
from tests import model_cases, run_cases


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


@pytest.fixture
def config(tmp_path: Path) -> ScoreConfig:
    return ScoreConfig(
        clip=ScoreClipConfig(name=str(model_cases.clip_folder(tmp_path / "clip"))),
        aesthetic_v1=HeadConfig(
            weights=str(model_cases.aesthetic_head(tmp_path / "h.safetensors"))
        ),
        embeddings=True,
        batch_size=4,
    )


def make_step(store: RunStore, config: ScoreConfig, *, fingerprint: str = "f" * 16) -> ScoreStep:
    return ScoreStep(
        store,
        fingerprint=fingerprint,
        images=Committed(store, "download", "d" * 16),
        config=config,
        torch_threads=1,
    )


def score(store: RunStore, config: ScoreConfig, **changes: str) -> Manifest:
    step = make_step(store, config, **changes)
    step.open()
    try:
        return step.run(0)
    finally:
        step.close()


def read(store: RunStore, manifest: Manifest) -> pa.Table:
    entry = manifest.file("facts/score")
    assert entry is not None
    return read_table(store, entry.path)


def test_every_stored_image_gets_one_row_in_plan_order(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    shard = run_cases.rows(11)
    run_cases.commit_download(store, 0, shard, tmp_path)
    manifest = score(store, config)
    table = read(store, manifest)
    stored = [(number, row) for number, row in enumerate(shard) if row.pixels is not None]
    assert table["key"].to_pylist() == [row.key for _, row in stored]
    assert table["row"].to_pylist() == [number for number, _ in stored]
    assert manifest.rows_in == manifest.kept == len(stored) == 9
    assert make_step(store, config).rows_in(0) == 9


def test_scores_are_those_of_the_pure_function(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    shard = [row for row in run_cases.rows(4) if row.pixels is not None]
    run_cases.commit_download(store, 0, shard, tmp_path)
    table = read(store, score(store, config))
    models = load_score_models(config, device="cpu")
    pixels = np.stack([row.pixels for row in shard if row.pixels is not None])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    texts = [row.caption for row in shard]
    expected = score_images(models, images, captions=texts)
    np.testing.assert_array_equal(table["aesthetic_v1"].to_numpy(), expected["aesthetic_v1"])
    assert table["clip_similarity"].null_count == 1
    assert table["clip_similarity"][1].as_py() is None  # its caption is null
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(-1, 16), expected["embedding"])


def test_a_score_that_was_not_asked_for_is_null(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    run_cases.commit_download(store, 0, run_cases.rows(3), tmp_path)
    lean = config.model_copy(update={"embeddings": False, "similarity": False})
    table = read(store, score(store, lean))
    assert table.schema.equals(SCORE_FACTS)
    for name in ("aesthetic_v2", "punsafe", "pwatermark", "clip_similarity"):
        assert table[name].null_count == table.num_rows == 3
    assert table["aesthetic_v1"].null_count == 0


def test_a_row_scores_the_same_whatever_comes_after_it(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    shard = run_cases.rows(9)
    run_cases.commit_download(store, 0, shard, tmp_path)
    whole = read(store, score(store, config))
    short_store = RunStore(str(tmp_path / "short"))
    run_cases.commit_download(short_store, 0, shard[:7], tmp_path)
    short = read(short_store, score(short_store, config))
    assert 0 < short.num_rows < whole.num_rows
    assert whole.slice(0, short.num_rows).equals(short)


def test_a_shard_without_images_gets_an_empty_table(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    run_cases.commit_download(store, 0, [run_cases.Row(key="0" * 16, pixels=None)], tmp_path)
    manifest = score(store, config)
    assert (manifest.rows_in, manifest.kept) == (0, 0)
    table = read(store, manifest)
    assert table.num_rows == 0
    assert table.schema.names == [*SCORE_FACTS.names, "embedding"]


def test_weights_that_changed_in_place_are_refused(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    make_step(store, config).open()
    model_cases.aesthetic_head(tmp_path / "h.safetensors", seed=1)
    with pytest.raises(ShardError, match=r"aesthetic_v1: was .* is now"):
        make_step(store, config).open()


def test_a_tar_that_is_not_its_facts_is_refused(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    shard = run_cases.rows(3)
    run_cases.commit_download(store, 0, shard, tmp_path)
    tar = next(Path(store.absolute("images")).glob("*.tar"))
    content = bytearray(tar.read_bytes())
    content[:16] = b"f" * 16  # the first member's name
    run_cases.recommit(tar, bytes(content))
    with pytest.raises(ShardError, match=r"not the next row|damaged tar"):
        score(store, config)


def break_images(store: RunStore, *, count: int) -> None:
    """Make the first images of the shard's tar unreadable."""
    tar = next(Path(store.absolute("images")).glob("*.tar"))
    broken = tar.read_bytes().replace(b"\x89PNG", b"\x00\x00\x00\x00", count)
    run_cases.recommit(tar, broken)


def test_a_stored_image_that_does_not_decode_costs_its_row_alone(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    shard = run_cases.rows(9)
    run_cases.commit_download(store, 0, shard, tmp_path)
    whole = read(store, score(store, config))
    break_images(store, count=1)
    manifest = score(store, config, fingerprint="a" * 16)
    assert (manifest.kept, manifest.dropped) == (whole.num_rows - 1, {"row_failed": 1})
    table = read(store, manifest)
    assert table["key"].equals(whole["key"])
    assert table.slice(1).equals(whole.slice(1))
    assert table.slice(0, 1).drop_columns(["shard_id", "row", "key"]).to_pylist() == [
        dict.fromkeys(whole.column_names[3:])
    ]
    entry = manifest.file("facts/score/rejects")
    assert entry is not None
    [reject] = read_table(store, entry.path).to_pylist()
    assert reject["key"] == shard[0].key
    assert reject["error_message"].startswith("ShardError: _work/images/")


def test_what_fails_with_every_row_is_raised(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    run_cases.commit_download(store, 0, run_cases.rows(2), tmp_path)
    break_images(store, count=2)
    with pytest.raises(ShardError, match="0000000000000000: a stored image does not decode"):
        score(store, config)


def test_the_only_caption_of_a_shard_may_be_refused(
    store: RunStore, config: ScoreConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = [replace(row, caption=None) for row in run_cases.rows(3)]
    shard[2] = replace(shard[2], caption="refused")
    run_cases.commit_download(store, 0, shard, tmp_path)
    split, embed, calls = CaptionSteps.split, captions.embed_captions, []

    def tokenize(self: CaptionSteps, clip: Clip, texts: Sequence[str]) -> Any:
        if "refused" in texts:
            raise ValueError("this caption")
        return split(self, clip, texts)

    def embed_after_first(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 1:
            raise ValueError("this caption")
        return embed(*given)

    for owner, name, work in (
        (CaptionSteps, "split", tokenize),
        (captions, "embed_captions", embed_after_first),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, work)
            manifest = score(store, config, fingerprint=name)
        assert (manifest.kept, manifest.dropped) == (2, {"row_failed": 1})
    monkeypatch.setattr(captions, "embed_captions", lambda *given: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        score(store, config, fingerprint="every")


def test_images_of_several_sizes_score_as_they_do_alone(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    small, large = run_cases.rows(9), run_cases.rows(9, size=48, seed=1)
    mixed = [row for pair in zip(small, large, strict=True) for row in pair]
    run_cases.commit_download(store, 0, mixed, tmp_path)
    found = {row["key"]: row for row in read(store, score(store, config)).to_pylist()}
    assert [row.key for row in mixed if row.pixels is not None] == list(found)
    for name, rows in (("small", small), ("large", large)):
        alone = RunStore(str(tmp_path / name))
        run_cases.commit_download(alone, 0, rows, tmp_path)
        for row in read(alone, score(alone, config)).to_pylist():
            scores = {n: v for n, v in row.items() if n not in ("row", "shard_id")}
            assert {n: found[row["key"]][n] for n in scores} == scores


def test_heads_of_nsfw_and_watermark_give_probabilities_of_their_own(
    store: RunStore, config: ScoreConfig, tmp_path: Path
) -> None:
    run_cases.commit_download(store, 0, run_cases.rows(5), tmp_path)
    heads = {}
    for seed, name in enumerate(("nsfw", "watermark")):
        torch.manual_seed(seed)
        tensors = {
            "norm.mean": torch.zeros(16),
            "norm.variance": torch.ones(16),
            "dense.weight": torch.randn(1, 16),
            "dense.bias": torch.randn(1),
        }
        save_file(tensors, tmp_path / f"{name}.safetensors")
        heads[name] = HeadConfig(weights=str(tmp_path / f"{name}.safetensors"))
    table = read(store, score(store, config.model_copy(update=heads)))
    punsafe, pwatermark = (table[name].to_numpy() for name in ("punsafe", "pwatermark"))
    assert ((punsafe > 0) & (punsafe < 1)).all()
    assert ((pwatermark > 0) & (pwatermark < 1)).all()
    assert not np.allclose(punsafe, pwatermark)
