"""A tokenizer without its weights counts as the loaded text encoder does."""

import numpy as np
import pytest

from sd_core.model.caption_tokenizer import caption_tokenizer_of, load_caption_tokenizer
from sd_core.model.clip import ClipConfig
from sd_core.model.latent_diffusion_config import LatentDiffusionConfig, first_text_encoder
from sd_core.model.text_encoder import TextEncoderConfig, load_text_encoder, tokenize_captions

_CONFIGS = {
    "open_clip": TextEncoderConfig(clip=ClipConfig(name="preset:tiny/clip")),
    "folder": TextEncoderConfig(model="preset:tiny/model"),
    "random weights of a folder": TextEncoderConfig(model="preset:tiny/model", pretrained=False),
    "a whole model": first_text_encoder(LatentDiffusionConfig(model="preset:tiny/model")),
}


@pytest.mark.parametrize("name", _CONFIGS)
def test_it_counts_what_the_text_encoder_keeps(name: str) -> None:
    found = load_caption_tokenizer(_CONFIGS[name])
    encoder = load_text_encoder(_CONFIGS[name], device="cpu")
    loaded = caption_tokenizer_of(encoder)
    assert (found.token_length, found.sha256, found.max_tokens) == (
        encoder.token_length,
        encoder.tokenizer_sha256,
        encoder.token_length - 2,
    )
    captions = ["a red star " * number for number in range(25)] + ["\u00e9toile \u661f " * 9, " ,"]
    counts = found.count(captions)
    np.testing.assert_array_equal(counts, loaded.count(captions))
    ids = tokenize_captions(encoder, captions).numpy()
    ends = (ids == encoder.tokenizer.eos_token_id).argmax(axis=1)  # the first one
    np.testing.assert_array_equal(np.minimum(counts, found.max_tokens), ends - 1)
    assert (counts > found.max_tokens).any()


def test_named_architectures_have_stable_diffusions_tokenizer() -> None:
    for name in ("sd-v1", "sd-v2", "sd-xl-2"):
        tokenizer = load_caption_tokenizer(TextEncoderConfig(model=name, pretrained=False))
        assert (tokenizer.token_length, tokenizer.max_tokens) == (77, 75)
        assert tokenizer.count(["", "a photo of a cat", "a " * 500]).tolist() == [0, 5, 500]


def test_many_captions_are_counted_as_each_alone() -> None:
    tokenizer = load_caption_tokenizer(_CONFIGS["open_clip"])
    captions = [f"a picture of {number} stars" for number in range(2500)]
    counts = tokenizer.count(captions)
    assert len(counts) == 2500
    for at in (0, 1023, 1024, 2499):
        assert counts[at] == tokenizer.count([captions[at]])[0]
