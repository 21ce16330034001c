"""The tokenizer of an open_clip model, held against what it makes of a plain text."""

from typing import Any

from sd_core.model.weights import WeightsError

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
