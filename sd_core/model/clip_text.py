"""CLIP's text tower on captions cut to one of few lengths.

A caption is far shorter than the 77 tokens that a tower takes (15 in the median of LAION's), and
where attention looks back alone, nothing behind a caption's end reaches its embedding. The lengths
are few and fixed, and so is the size of a batch: an embedding's last bit follows both, and nothing
else that is in the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_core.model.clip import Clip

TextLength = Literal["full", "steps"]
"""`full`: all tokens that the tower takes; `steps`: the first of 16, 32, ... that holds a caption,
of towers that look back alone."""

_SHORTEST: Final = 16


@dataclass(frozen=True, kw_only=True)
class CaptionBatch:
    """Captions of one length; `places` of each among all, (B, L) token ids."""

    places: tuple[int, ...]
    input_ids: Tensor


@dataclass(frozen=True, kw_only=True)
class CaptionSteps:
    """In what batches a tower takes captions: (rows, length), the shortest first.

    A batch has as many rows as configured at the shortest length, and of longer captions fewer, so
    that about as many tokens are in each.
    """

    batches: tuple[tuple[int, int], ...]

    def split(self, clip: Clip, captions: Sequence[str]) -> Iterator[CaptionBatch]:
        """Tokenize captions, and group them by their length; in order within one."""
        if not captions:
            return
        input_ids = clip.tokenizer(list(captions))
        ends = torch.tensor([length for _, length in self.batches])
        steps = torch.searchsorted(ends, _used(clip, input_ids)).tolist()
        for step, (rows, length) in enumerate(self.batches):
            places = [place for place, found in enumerate(steps) if found == step]
            for start in range(0, len(places), rows):
                part = tuple(places[start : start + rows])
                yield CaptionBatch(places=part, input_ids=input_ids[list(part), :length])

    def filled(self, input_ids: Tensor) -> Tensor:
        """(B, L) token ids of a `split`, or of some of its rows, with what fills them up."""
        rows = next(rows for rows, length in self.batches if length == input_ids.shape[1])
        return F.pad(input_ids, (0, 0, 0, rows - len(input_ids)))


def caption_steps(clip: Clip, *, batch_size: int, lengths: TextLength) -> CaptionSteps:
    """Those of a CLIP's text tower."""
    if lengths == "full" or not _looks_back(clip.model):
        return CaptionSteps(batches=((batch_size, clip.context_length),))
    found, length = [], _SHORTEST
    while 2 * length <= clip.context_length:
        found.append(length)
        length *= 2
    found.append(clip.context_length)
    return CaptionSteps(batches=tuple((max(1, batch_size * found[0] // n), n) for n in found))


@torch.inference_mode()
def embed_captions(clip: Clip, input_ids: Tensor) -> Tensor:
    """Embed (B, L) token ids on the model's device: (B, embed_dim) float32, L2-normalised."""
    if input_ids.shape[1] == clip.context_length:
        model: Any = clip.model
        embeddings = model.encode_text(input_ids)
    else:
        embeddings = _encode_cut(clip.model, input_ids)
    return F.normalize(embeddings.float(), dim=-1)


def _looks_back(model: nn.Module) -> bool:
    """Whether it is a tower of open_clip's own whose embedding follows from the caption alone, and
    not from what is behind it."""
    tower: Any = getattr(model, "text", model)
    return (
        type(tower).__name__ in ("CLIP", "TextTransformer")
        and _pool_type(tower) in ("argmax", "eos")
        and getattr(tower, "attn_mask", None) is not None
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "use_pad_mask", False)
        and not getattr(tower, "output_tokens", False)
    )


def _pool_type(tower: Any) -> str | None:
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))


def _ends(tower: Any, input_ids: Tensor) -> Tensor:
    """Where an embedding is taken: at the largest token, or at the one that says the end."""
    if _pool_type(tower) == "eos":
        end: Any = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
        input_ids = input_ids.eq(end).int()
    return input_ids.argmax(dim=-1)


def _used(clip: Clip, input_ids: Tensor) -> Tensor:
    """How many tokens of each caption reach its embedding; all where that is not known."""
    if not _looks_back(clip.model):
        return torch.full((len(input_ids),), input_ids.shape[1])
    return _ends(getattr(clip.model, "text", clip.model), input_ids) + 1


def _encode_cut(model: nn.Module, input_ids: Tensor) -> Tensor:
    """As open_clip's `encode_text`, on fewer positions."""
    tower: Any = getattr(model, "text", model)
    length = input_ids.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    hidden = tower.token_embedding(input_ids).to(dtype)
    hidden = hidden + tower.positional_embedding[:length].to(dtype)
    hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length].contiguous())
    hidden = tower.ln_final(hidden)
    pooled = hidden[torch.arange(len(hidden), device=hidden.device), _ends(tower, input_ids)]
    projection = tower.text_projection
    if projection is not None:
        is_layer = isinstance(projection, nn.Linear)
        pooled = projection(pooled) if is_layer else pooled @ projection
    embeddings: Tensor = pooled
    return embeddings
