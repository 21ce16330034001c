"""CLIP's tokenizer, as transformers' class, of open_clip's own or out of a vocabulary."""

from typing import Any


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
