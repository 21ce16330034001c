"""How many tokens each caption has, by the tokenizer of the text encoder that reads it later."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from sd_core.model.caption_tokenizer import CaptionTokenizer

_NO_CAPTION = -1


TOKENS_OPTION = "caption_tokens"
"""Option of select that says what captions are counted with; without it they are not."""


def token_identity(counter: "CaptionTokenizer | None") -> dict[str, Any]:
    """The option of select by which captions are counted; none where they are not."""
    if counter is None:
        return {}
    return {TOKENS_OPTION: {"tokenizer_sha256": counter.sha256, "max_tokens": counter.max_tokens}}


@dataclass(frozen=True, kw_only=True)
class TokenColumns:
    """The columns `TOKEN_FIELDS` of a run's shards, each counted once; on any thread.

    Attributes:
        counter: Counts.
        folder: A local folder, for the counts: four bytes a row.
    """

    counter: "CaptionTokenizer"
    folder: Path
    _lock: Lock = field(default_factory=Lock)  # a tokenizer serves one at a time

    def of(self, shard_id: int, captions: pa.ChunkedArray, *, is_last: bool) -> dict[str, pa.Array]:
        """Both columns of a shard, null where the caption is; `is_last`: it is not asked again."""
        path = self.folder / f"tokens-{shard_id}.int32"
        if path.exists():
            counts = np.fromfile(path, np.int32)
        else:
            counts = self._count(captions)
            if not is_last:
                counts.tofile(path)
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
        with self._lock:
            counts = np.append(self.counter.count(texts), np.int32(_NO_CAPTION))
        found: npt.NDArray[np.int32] = counts[np.asarray(pc.fill_null(encoded.indices, len(texts)))]
        return found.astype(np.int32)
