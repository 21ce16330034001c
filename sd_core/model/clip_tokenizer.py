"""CLIP's tokenizers: open_clip's, held against what it makes of a plain text, and transformers'."""

from typing import Any

from sd_core.model.weights import WeightsError


def clip_vocabulary_tokenizer(*, pad_token_id: int) -> Any:
    """CLIP's 49,408-word tokenizer from the vocabulary that open_clip ships."""
    import open_clip

    tokenizer = clip_tokenizer(open_clip.SimpleTokenizer())
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad_token_id)
    return tokenizer


def clip_tokenizer(tokenizer: Any) -> Any:
    """The transformers tokenizer behind an open_clip one; its built-in one is rebuilt from its
    vocabulary, padding with EOS."""
    from transformers import CLIPTokenizer

    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        return inner
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    vocabulary = {
        token.replace("<start_of_text>", "<|startoftext|>").replace(
            "<end_of_text>", "<|endoftext|>"
        ): index
        for token, index in tokenizer.encoder.items()
    }
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


_PROBE = "a photo of a cat"


def open_clip_tokenizer(name: str) -> Any:
    """open_clip's tokenizer for a model's name or `local-dir:` folder.

    Raises:
        WeightsError: it cannot be loaded, or knows no word: transformers builds a tokenizer of a
            folder without a vocabulary too, and every caption is then the same.
    """
    import open_clip

    try:
        tokenizer = open_clip.get_tokenizer(name)
    except (RuntimeError, ValueError, OSError, KeyError, AssertionError) as error:
        raise WeightsError(f"{name}: open_clip cannot load its tokenizer: {error}") from error
    inner = getattr(tokenizer, "tokenizer", None)  # of transformers; its own has none
    if inner is None or not hasattr(inner, "all_special_ids"):
        return tokenizer
    found = inner(_PROBE, add_special_tokens=False)["input_ids"]
    if set(found) <= set(inner.all_special_ids):
        raise WeightsError(
            f"{name}: its tokenizer knows no word of {_PROBE!r}: the vocabulary is missing; copy "
            "tokenizer.json, or vocab.json with merges.txt, from the model's publisher"
        )
    return tokenizer
