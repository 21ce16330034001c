"""Captions cut to few lengths: the tower's own embedding, whatever else is in a batch."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sd_core.model.clip import Clip, ClipConfig, load_clip
from sd_core.model.clip_text import CaptionSteps, TextLength, caption_steps, embed_captions
from tests import model_cases

CAPTIONS = ["", "a cat", "a dog in the rain", "x" * 20, "y" * 60, *("b" * n for n in range(12, 34))]
BATCHES = ((4, 16), (2, 32), (1, 77))


def folder_of(tmp_path: Path, *, custom: bool, text: dict[str, object]) -> Path:
    changes = {"text_cfg": {**model_cases.CLIP["text_cfg"], "context_length": 77, **text}}
    return model_cases.clip_folder(tmp_path / "clip", custom_text=custom, **changes)


def embedded(clip: Clip, captions: list[str], steps: CaptionSteps) -> Tensor:
    found = torch.zeros(len(captions), clip.embed_dim)
    for batch in steps.split(clip, captions):
        ids = steps.filled(batch.input_ids)
        assert tuple(ids.shape) in steps.batches
        found[list(batch.places)] = embed_captions(clip, ids)[: len(batch.places)]
    return found


@pytest.mark.parametrize("custom", [False, True])
def test_a_caption_that_is_cut_has_the_towers_embedding_and_no_company(
    tmp_path: Path, custom: bool
) -> None:
    path = folder_of(tmp_path, custom=custom, text={})
    clip = load_clip(ClipConfig(name=str(path)), device="cpu")
    steps = caption_steps(clip, batch_size=4, lengths="steps")
    assert steps.batches == BATCHES
    cut, whole = embedded(clip, CAPTIONS, steps), clip.encode_captions(CAPTIONS)
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)
    order = random.Random(0).sample(range(len(CAPTIONS)), len(CAPTIONS))
    for chosen in (order, order[:5], [4]):
        assert torch.equal(embedded(clip, [CAPTIONS[at] for at in chosen], steps), cut[chosen])


@pytest.mark.parametrize("lengths", ["full", "steps"])
def test_what_is_not_cut_is_as_it_was(tmp_path: Path, lengths: TextLength) -> None:
    # A tower that looks ahead sees what is behind a caption, so that it is never cut.
    text = {"no_causal_mask": True} if lengths == "steps" else {}
    path = folder_of(tmp_path, custom=lengths == "steps", text=text)
    clip = load_clip(ClipConfig(name=str(path)), device="cpu")
    steps = caption_steps(clip, batch_size=4, lengths=lengths)
    assert steps.batches == ((4, 77),)
    filled = [*CAPTIONS, *[""] * (-len(CAPTIONS) % 4)]
    before = [clip.encode_captions(filled[at : at + 4]) for at in range(0, len(filled), 4)]
    assert torch.equal(embedded(clip, CAPTIONS, steps), torch.cat(before)[: len(CAPTIONS)])
