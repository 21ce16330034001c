"""The text encoder: exact conversion, one padding convention, diffusers folders."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sd_core.model.clip import Clip, ClipConfig, load_clip
from sd_core.model.text_encoder import (
    TextEncoder,
    TextEncoderConfig,
    encode_captions,
    encode_token_ids,
    load_text_encoder,
)
from sd_core.model.weights import WeightsError
from tests import model_cases

CAPTIONS = ["a red circle", "", "Naïve café, 12 dogs' tails!! and far more words than fit"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_cases.clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    config = TextEncoderConfig(clip=ClipConfig(name=str(folder)))
    return load_text_encoder(config, device="cpu")


def open_clip_hidden_states(clip: Clip, input_ids: Tensor) -> Tensor:
    seen: list[Tensor] = []
    tower = getattr(clip.model, "text", clip.model)
    handle = tower.ln_final.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        clip.model.encode_text(input_ids.long())
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("custom_text", [False, True])
def test_hidden_states_are_open_clips_own(
    tmp_path: Path, quick_gelu: bool, custom_text: bool
) -> None:
    folder = model_cases.clip_folder(
        tmp_path / "clip", quick_gelu=quick_gelu, custom_text=custom_text
    )
    config = ClipConfig(name=str(folder))
    encoder = load_text_encoder(TextEncoderConfig(clip=config), device="cpu")
    clip = load_clip(config, device="cpu")
    assert hasattr(clip.model, "text") == custom_text
    encoded = encode_captions(encoder, CAPTIONS)
    expected = open_clip_hidden_states(clip, encoded.input_ids)
    torch.testing.assert_close(encoded.prompt_embeds, expected, atol=1e-5, rtol=0)
    at_eos = (encoded.input_ids == encoder.tokenizer.eos_token_id).int().argmax(dim=-1)
    torch.testing.assert_close(
        encoded.pooled_prompt_embeds, expected[torch.arange(3), at_eos], atol=1e-5, rtol=0
    )


@pytest.mark.slow
def test_the_real_size_converts_exactly_and_pads_with_eos() -> None:
    config = ClipConfig(name="ViT-B-32", pretrained=False)
    encoder = load_text_encoder(TextEncoderConfig(clip=config), device="cpu")
    clip = load_clip(config, device="cpu")
    encoded = encode_captions(encoder, CAPTIONS)
    expected = open_clip_hidden_states(clip, encoded.input_ids)
    torch.testing.assert_close(encoded.prompt_embeds, expected, atol=1e-5, rtol=0)
    # open_clip's own tokenizer gives the same tokens, then zeros instead of EOS.
    theirs = clip.tokenizer(CAPTIONS)
    ours = encoded.input_ids.long()
    assert torch.equal(torch.where(theirs == 0, 49407, theirs), ours)
    assert encoder.pad_token_id == 49407


def test_ids_are_bos_tokens_eos_and_padding(encoder: TextEncoder) -> None:
    ids = encode_captions(encoder, CAPTIONS).input_ids
    assert (ids.dtype, ids.shape) == (torch.int32, (3, encoder.token_length))
    bos, eos = encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id
    assert ids[1].tolist() == [bos, eos] + [encoder.pad_token_id] * 10
    assert ids[2, -1] == eos  # truncated, EOS kept
    assert (ids[:, 0] == bos).all()


def test_cached_ids_encode_like_their_caption(encoder: TextEncoder) -> None:
    encoded = encode_captions(encoder, CAPTIONS)
    again = encode_token_ids(encoder, encoded.input_ids)
    assert torch.equal(again.prompt_embeds, encoded.prompt_embeds)
    assert torch.equal(again.pooled_prompt_embeds, encoded.pooled_prompt_embeds)


def test_the_empty_caption_is_not_zeros(encoder: TextEncoder) -> None:
    assert encode_captions(encoder, [""]).prompt_embeds.abs().mean() > 0.1


def test_a_diffusers_folder_round_trips(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.module.save_pretrained(tmp_path / "text_encoder")
    encoder.tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = load_text_encoder(TextEncoderConfig(model=str(tmp_path)), device="cpu")
    assert loaded.source == "diffusers"
    assert loaded.weights_sha256 == encoder.weights_sha256
    assert loaded.tokenizer_sha256 == encoder.tokenizer_sha256
    ours, theirs = encode_captions(encoder, CAPTIONS), encode_captions(loaded, CAPTIONS)
    assert torch.equal(ours.input_ids, theirs.input_ids)
    assert torch.equal(ours.prompt_embeds, theirs.prompt_embeds)


def test_a_missing_subfolder_names_the_key(tmp_path: Path) -> None:
    config = TextEncoderConfig(model=str(tmp_path))
    with pytest.raises(WeightsError, match=r"text_encoder\.model: .*there is nothing at"):
        load_text_encoder(config, device="cpu")
    assert [need.where for need in config.weight_needs("encode.text_encoder")] == [
        "encode.text_encoder.model",
        "encode.text_encoder.model",
    ]


def test_one_source_is_asked_for() -> None:
    with pytest.raises(ValidationError, match="set one of model"):
        TextEncoderConfig()
    with pytest.raises(ValidationError, match="set one of model"):
        TextEncoderConfig(model="/a", clip=ClipConfig(name="/b"))
