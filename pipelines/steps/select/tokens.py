"""How many tokens each caption has, by the tokenizer of the text encoder that reads it later."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_NO_CAPTION = -1


TOKENS_OPTION = "caption_tokens"
"""Option of select that says what captions are counted with; without it they are not."""


class TokenCounter(Protocol):
    """A tokenizer as select needs it."""

    @property
    def sha256(self) -> str:
        """Of its vocabulary and special ids."""

    @property
    def max_tokens(self) -> int:
        """A caption's own tokens that the text encoder reads."""

    def count(self, captions: Sequence[str]) -> npt.NDArray[np.int32]:
        """Tokens of each caption before any is cut."""


def token_identity(counter: TokenCounter | None) -> dict[str, Any]:
    """The option of select by which captions are counted; none where they are not."""
    if counter is None:
        return {}
    return {TOKENS_OPTION: {"tokenizer_sha256": counter.sha256, "max_tokens": counter.max_tokens}}


@dataclass(frozen=True, kw_only=True)
class TokenColumns:
    """The columns `TOKEN_FIELDS` of a run's shards; each shard is counted once.

    Attributes:
        counter: Counts.
        folder: A local folder, for the counts: four bytes a row.
    """

    counter: TokenCounter
    folder: Path

    def of(self, shard_id: int, captions: pa.ChunkedArray) -> dict[str, pa.Array]:
        """Both columns of a shard, null where the caption is."""
        path = self.folder / f"tokens-{shard_id}.npy"
        if not path.exists():
            np.save(path, self._count(captions))
        counts = np.load(path)
        missing = counts == _NO_CAPTION
        return {
            "caption_tokens": pa.array(counts, pa.int32(), mask=missing),
            "caption_is_cut": pa.array(counts > self.counter.max_tokens, pa.bool_(), mask=missing),
        }

    def _count(self, captions: pa.ChunkedArray) -> npt.NDArray[np.int32]:
        encoded = pc.dictionary_encode(captions).combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):  # of no chunk
            return np.empty(0, np.int32)
        texts = encoded.dictionary.to_pylist()
        counts = np.append(self.counter.count(texts), np.int32(_NO_CAPTION))
        found: npt.NDArray[np.int32] = counts[np.asarray(pc.fill_null(encoded.indices, len(texts)))]
        return found.astype(np.int32)
