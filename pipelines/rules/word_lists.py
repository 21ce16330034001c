"""Lists of keys and of words that a row must not have."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rules.block_lists import list_entries
from pipelines.rules.columns import Mask

_NOT_WORD = r"[^\p{L}\p{M}\p{N}]+"
# Scripts that put no space between words: an entry that holds one is looked for anywhere.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True, kw_only=True)
class WordList:
    """Words and phrases, ready to ask.

    Attributes:
        words: Single words.
        phrases: By their first word, phrases of several.
        parts: Text looked for anywhere, for scripts without spaces.
    """

    words: frozenset[str]
    phrases: Mapping[str, tuple[tuple[str, ...], ...]]
    parts: tuple[str, ...]

    def found_in(self, texts: pa.Array) -> Mask:
        """Which texts hold a word or phrase whole, in any case; null holds none."""
        levelled = pc.utf8_lower(pc.utf8_normalize(pc.fill_null(texts, ""), "NFKC"))
        spaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(levelled, _NOT_WORD, " "))
        found = np.zeros(len(texts), np.bool_)
        for part in self.parts:
            found |= np.asarray(pc.match_substring(levelled, part))
        tokens = pc.split_pattern(spaced, " ")
        rows = pc.list_parent_indices(tokens)
        flat = pc.list_flatten(tokens)
        found[np.unique(rows.filter(_is_in(flat, self.words)))] = True
        if self.phrases:
            for row in np.unique(rows.filter(_is_in(flat, self.phrases))):
                found[row] = found[row] or self._has_phrase(tokens[int(row)].as_py())
        return found

    def _has_phrase(self, tokens: list[str]) -> bool:
        return any(
            tuple(tokens[at : at + len(phrase)]) == phrase
            for at, token in enumerate(tokens)
            for phrase in self.phrases.get(token, ())
        )


def read_words(path: str, *, option: str, storage_options: Mapping[str, Any]) -> WordList:
    """Read a list of words and phrases; raises `ConfigError` where it cannot be read."""
    words: set[str] = set()
    phrases: dict[str, list[tuple[str, ...]]] = {}
    parts: list[str] = []
    for entry in list_entries(path, option, dict(storage_options)):
        text = pc.utf8_lower(pc.utf8_normalize(pa.scalar(entry), "NFKC")).as_py()
        spaced = pc.replace_substring_regex(pa.scalar(text), _NOT_WORD, " ").as_py()
        tokens = tuple(spaced.split())
        if _UNSPACED.search(text):
            parts.append(text)
        elif len(tokens) == 1:
            words.add(tokens[0])
        elif tokens:
            phrases.setdefault(tokens[0], []).append(tokens)
    return WordList(
        words=frozenset(words),
        phrases={first: tuple(found) for first, found in phrases.items()},
        parts=tuple(parts),
    )


def read_keys(path: str, *, option: str, storage_options: Mapping[str, Any]) -> frozenset[str]:
    """Read a list of keys; raises `ConfigError` where it cannot be read."""
    return frozenset(list_entries(path, option, dict(storage_options)))


def list_digest(path: str, *, option: str, storage_options: Mapping[str, Any]) -> str:
    """Changes with a list's entries, not with their order."""
    entries = sorted(set(list_entries(path, option, dict(storage_options))))
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16]


def _is_in(values: pa.Array, allowed: Iterable[str]) -> pa.Array:
    return pc.is_in(values, value_set=pa.array(sorted(allowed), pa.string()))
