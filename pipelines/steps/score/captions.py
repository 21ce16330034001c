"""Embeddings of a shard's captions, which are made before its images are looked at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from pipelines.rows.failures import Failures, Isolation
from sd_core.model.clip import Clip
from sd_core.model.clip_text import CaptionSteps, embed_captions
from sd_core.model.transfer import Sent, Transfers

_PLAIN: Final = "a photo"


@dataclass(frozen=True)
class _Caption:
    key: str
    input_ids: Tensor


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions of one length, and their token ids on the way to the device."""

    captions: Sequence[_Caption]
    sent: Sent


class ShardCaptions:
    """The captions of one shard; a row whose caption a library refuses is in `failures`.

    Args:
        steps: In what batches the CLIP takes them.
    """

    def __init__(self, clip: Clip, transfers: Transfers, steps: CaptionSteps) -> None:
        self._clip, self._transfers, self._steps = clip, transfers, steps
        self.failures: Failures = {}
        self._tokenizing = Isolation(
            self._tokenize, key_of=lambda row: row["key"], failures=self.failures
        )
        self._embedding = Isolation(
            self._embed, key_of=lambda caption: caption.key, failures=self.failures
        )
        self._whole: Captions | None = None
        self._places: dict[str, int] = {}
        self._parts: list[Tensor] = [torch.zeros(1, clip.embed_dim, device=clip.device)]

    def read(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Captions]:
        """Batches of the captions that say something."""
        told = [row for row in rows if (row["caption"] or "").strip()]
        for batches in self._tokenizing.run(told) if told else ():
            for batch in batches:
                yield Captions(captions=batch, sent=self._send(batch))

    def compute(self, batch: Captions) -> None:
        """Embed a batch, and keep it on the device."""
        self._whole = batch
        self._embedding.run(batch.captions)

    def finish(self) -> None:
        """Raise where no caption goes through, not even a plain one."""
        known = {"key": "", "caption": _PLAIN}
        self._tokenizing.finish(known=known)
        if self.failures:
            [[caption], *_] = self._tokenize([known])
            self._embedding.finish(known=caption)

    def of(self, keys: Sequence[str], *, size: int) -> Tensor:
        """(size, embed_dim) on the device, in the order of the keys; zeros for blank captions, and
        behind the last key."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        places = torch.zeros(size, dtype=torch.int64)
        places[: len(keys)] = torch.tensor([self._places.get(key, 0) for key in keys])
        (there,) = self._transfers.send(places).take()
        return self._parts[0][there]

    def _tokenize(self, rows: Sequence[Mapping[str, Any]]) -> list[list[_Caption]]:
        texts = [row["caption"] for row in rows]
        return [
            [
                _Caption(rows[place]["key"], ids)
                for place, ids in zip(batch.places, batch.input_ids, strict=True)
            ]
            for batch in self._steps.split(self._clip, texts)
        ]

    def _send(self, captions: Sequence[_Caption]) -> Sent:
        ids = torch.stack([caption.input_ids for caption in captions])
        return self._transfers.send(self._steps.filled(ids))

    def _embed(self, captions: Sequence[_Caption]) -> None:
        whole = self._whole
        sent = whole.sent if whole and whole.captions is captions else self._send(captions)
        embeddings = embed_captions(self._clip, *sent.take())[: len(captions)]
        start = sum(map(len, self._parts))
        self._places |= {one.key: start + at for at, one in enumerate(captions)}
        self._parts.append(embeddings)
