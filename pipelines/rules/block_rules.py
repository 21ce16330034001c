"""Rules by lists in files: of keys, of words, of URLs, domains and contents."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipelines.rules.block_lists import BlockConfig, BlockList, list_entries, load_block_list
from pipelines.rules.columns import Mask, array_of, check_text
from pipelines.rules.rule import Breaks, OpenOptions, RowRule, RuleOutcome

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


def list_digest(path: str, *, option: str, storage_options: Mapping[str, Any]) -> str:
    """Changes with a list's entries, not with their order."""
    entries = sorted(set(list_entries(path, option, dict(storage_options))))
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16]


def _is_in(values: pa.Array, allowed: Iterable[str]) -> pa.Array:
    return pc.is_in(values, value_set=pa.array(sorted(allowed), pa.string()))


_BLOCK_REASONS = ("url_blocked", "domain_blocked", "sha256_blocked")


class BlockRule(RowRule):
    """Rows whose URL or domain is on a list, or that of the URL that redirects led to, or whose
    content is: in `download.rules` they are never fetched (`urls`, `domains`) or kept (`sha256`).
    """

    block: BlockConfig

    @model_validator(mode="after")
    def _names_a_list(self) -> Self:
        if self.block == BlockConfig():
            raise ValueError(f"block needs one of {', '.join(BlockConfig.model_fields)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return ("url", "final_url", "sha256")

    @property
    def needed(self) -> tuple[str, ...]:
        return ("url",)

    def identity(self) -> dict[str, Any]:
        """Without the files' paths: what they hold counts."""
        return {"block": sorted(self.block.model_dump(exclude_none=True)), "name": self.name}

    def files_digest(self, *, where: str, storage_options: OpenOptions) -> str | None:
        return self._load(where, storage_options).digest

    def ready(self, *, where: str, storage_options: OpenOptions) -> "Blocked":
        return Blocked(self._load(where, storage_options), name=self.name)

    def _load(self, where: str, options: OpenOptions) -> BlockList:
        option = where if where == "block" else f"{where}.block"
        return load_block_list(self.block, option=option, storage_options=dict(options))


class Blocked:
    """Rows on a block list; of columns that are not there yet nothing is said.

    Attributes:
        blocks: The list, for URLs after redirects and for contents.
    """

    columns = ("url", "final_url", "sha256")

    def __init__(self, blocks: BlockList, *, name: str | None) -> None:
        self.blocks = blocks
        self.name = name
        self.outcomes = tuple(RuleOutcome(reason=reason, rule=name) for reason in _BLOCK_REASONS)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Every run has URLs."""

    def broken(self, rows: pa.Table) -> Breaks:
        breaks = np.zeros(rows.num_rows, np.int16)
        if "sha256" in rows.column_names:
            blocked = self.blocks.sha256_blocked
            found = [d is not None and blocked(d) for d in rows["sha256"].to_pylist()]
            breaks[np.asarray(found, np.bool_)] = 3
        for name in ("final_url", "url"):
            if name in rows.column_names:
                reasons = self.blocks.url_reasons(array_of(rows, name))
                at = pc.index_in(reasons, value_set=pa.array(_BLOCK_REASONS))
                numbers = np.asarray(pc.fill_null(at, -1)) + 1
                breaks = np.where(numbers > 0, numbers, breaks).astype(np.int16)
        return breaks


class BlockKeysRule(RowRule):
    """Rows whose key is on a list: one a line (`#` starts a comment), or one Parquet column."""

    block_keys: str = Field(min_length=1)
    """The list: an absolute path or an fsspec URL."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("key",)

    def files_digest(self, *, where: str, storage_options: OpenOptions) -> str | None:
        return list_digest(self.block_keys, option=where, storage_options=storage_options)

    def ready(self, *, where: str, storage_options: OpenOptions) -> "BlockedKeys":
        keys = frozenset(list_entries(self.block_keys, where, dict(storage_options)))
        return BlockedKeys(keys, name=self.name or "list of keys")


class BlockedKeys:
    """Rows whose key is on a list."""

    columns = ("key",)

    def __init__(self, keys: frozenset[str], *, name: str) -> None:
        self._keys = pa.array(sorted(keys), pa.string())
        self.outcomes = (RuleOutcome(reason="key_blocked", rule=name),)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Every run has keys."""

    def broken(self, rows: pa.Table) -> Breaks:
        found = pc.is_in(array_of(rows, "key"), value_set=self._keys)
        return np.asarray(found).astype(np.int16)


class BlockWordsRule(RowRule):
    """Rows whose text holds a word or phrase of a list, whole and in any case."""

    block_words: str = Field(min_length=1)
    """The list, a word or phrase a line: an absolute path or an fsspec URL."""
    column: str = "caption"
    """The column of text that is searched."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def files_digest(self, *, where: str, storage_options: OpenOptions) -> str | None:
        return list_digest(self.block_words, option=where, storage_options=storage_options)

    def ready(self, *, where: str, storage_options: OpenOptions) -> "BlockedWords":
        words = read_words(self.block_words, option=where, storage_options=storage_options)
        name = self.name or f"list of words in {self.column}"
        return BlockedWords(words, column=self.column, name=name, where=f"{where}.column")


class BlockedWords:
    """Rows whose text holds a word or phrase of a list."""

    def __init__(self, words: WordList, *, column: str, name: str, where: str) -> None:
        self._words, self._where = words, where
        self.columns = (column,)
        self.outcomes = (RuleOutcome(reason="word_blocked", rule=name),)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        check_text(self.columns[0], types, where=self._where)

    def broken(self, rows: pa.Table) -> Breaks:
        return self._words.found_in(array_of(rows, self.columns[0])).astype(np.int16)
