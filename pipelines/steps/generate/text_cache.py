"""Encoded texts, each encoded once: the empty caption and repeated prompts cost nothing more."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sd_core.batch_size import BatchSize, say_here
from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_conditioning import condition_on_ids, native_time_ids, token_ids
from sd_core.say import Say

_MAX_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """One text: (L,) int32 ids of the first encoder on the CPU, and the embeddings of all as the
    denoiser takes them, (L', D), on the model's device."""

    input_ids: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor | None

    @property
    def num_bytes(self) -> int:
        return self.prompt_embeds.nbytes


class TextCache:
    """Texts to embeddings, the least recently used of them forgotten beyond 256 MiB.

    Args:
        model: Whose text encoders run.
        batch_size: Texts at a time, always as many: a model's last bit depends on it. Halved
            where the memory is too small.
    """

    def __init__(self, model: LatentDiffusion, *, batch_size: int, say: Say = say_here) -> None:
        self._model = model
        self._size = BatchSize(batch_size, what="generate: encoding texts", say=say)
        self._texts: OrderedDict[str, EncodedText] = OrderedDict()
        self._num_bytes = 0
        self.num_encoded = 0

    @property
    def size(self) -> int:
        """How many texts the memory holds."""
        return self._size.size

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        """Each text's embeddings, in order; those not known yet are encoded together."""
        found = {text: self._texts[text] for text in dict.fromkeys(texts) if text in self._texts}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        while missing:
            encoded = self._size.run(partial(self._encode, missing))
            found.update(zip(missing, encoded, strict=False))
            missing = missing[len(encoded) :]
        self._keep(found)
        return [found[text] for text in texts]

    @torch.inference_mode()
    def _encode(self, missing: Sequence[str], batch_size: int) -> list[EncodedText]:
        """The first of the texts, as a batch that is filled up."""
        texts = missing[:batch_size]
        padded = [*texts, *[""] * (batch_size - len(texts))]
        ids = token_ids(self._model, padded)
        sizes = native_time_ids(self._model, len(padded))  # XL's own come with the row
        encoded = condition_on_ids(self._model, ids, time_ids=sizes)
        input_ids = next(iter(ids.values()))
        pooled = encoded.pooled_prompt_embeds
        self.num_encoded += len(texts)
        return [
            EncodedText(
                input_ids=input_ids[at].clone(),  # not a view that keeps the whole batch
                prompt_embeds=encoded.prompt_embeds[at].clone(),
                pooled_prompt_embeds=None if pooled is None else pooled[at].clone(),
            )
            for at in range(len(texts))
        ]

    def _keep(self, used: dict[str, EncodedText]) -> None:
        for text, encoded in used.items():
            if text not in self._texts:
                self._num_bytes += encoded.num_bytes
            self._texts[text] = encoded
            self._texts.move_to_end(text)
        while self._num_bytes > _MAX_BYTES and len(self._texts) > 1:
            self._num_bytes -= self._texts.popitem(last=False)[1].num_bytes


def stack_texts(texts: Sequence[EncodedText], *, time_ids: Tensor | None) -> Conditioning:
    """B encoded texts as a batch.

    Args:
        time_ids: (B, 6), of XL; not used by other models.
    """
    pooled = [text.pooled_prompt_embeds for text in texts]
    return Conditioning(
        prompt_embeds=torch.stack([text.prompt_embeds for text in texts]),
        pooled_prompt_embeds=None
        if pooled[0] is None
        else torch.stack([one for one in pooled if one is not None]),
        time_ids=None if pooled[0] is None else time_ids,
    )
