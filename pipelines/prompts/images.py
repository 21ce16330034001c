"""The images that a plan of prompts has by name, and the names that further rows get."""

import hashlib
from dataclasses import dataclass, field

import pyarrow as pa

from pipelines.prompts.record import image_content
from pipelines.prompts.row import PromptRow
from pipelines.rows.keys import MAX_PROMPT_KEY_CHARS
from pipelines.rules.tombstones import TAKEN_DOWN, Tombstones

_SUFFIX_DIGITS = (8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class TakenImages:
    """What a row came to: the numbers of the images that no earlier row has, or a reason."""

    image_indices: list[int]
    reason: str | None = None
    error_message: str | None = None


@dataclass
class PlannedImages:
    """Every image of the plan, under its name.

    Attributes:
        one_shard_a_key: Whether a key's images must lie in one shard.
        tombstones: What was taken down is not made again.
        renamed: Asked key to the suffixed one, of the first row that needed it.
        num_renamed: Rows that repeat a key with other settings.
        num_alike: Rows whose images an earlier row has too, under another key.
    """

    one_shard_a_key: bool = False
    tombstones: Tombstones = field(default_factory=Tombstones)
    renamed: tuple[str, str] | None = None
    num_renamed: int = 0
    num_alike: int = 0
    _contents: dict[str, str] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    """Content to the first key that has it."""
    _settled: set[str] = field(default_factory=set)

    def remember(self, prompts: pa.Table) -> None:
        """Take the images of a shard that is cut."""
        accepted = prompts.filter(prompts["reason"].is_null())
        for key, indices, content in zip(
            accepted["prompt_key"].to_pylist(),
            accepted["image_indices"].to_pylist(),
            accepted["content"].to_pylist(),
            strict=True,
        ):
            self._add(key, indices, content)
        self.settle(accepted["prompt_key"].to_pylist())

    def settle(self, keys: list[str]) -> None:
        """No other shard may have images of these keys, where that matters."""
        self._settled.update(keys if self.one_shard_a_key else ())

    def key_of(self, row: PromptRow) -> str:
        """The row's key; of one that names images of other settings, with a suffix hashed from
        its own, so that it is the same wherever the row stands."""
        if row.reason is not None or self._is_free(row.key, row):
            return row.key
        digest = hashlib.blake2b(f"{row.key}/{row.content}".encode(), digest_size=16).hexdigest()
        for digits in _SUFFIX_DIGITS:
            key = f"{row.key[: MAX_PROMPT_KEY_CHARS - digits - 1]}-{digest[:digits]}"
            if self._is_free(key, row):
                break
        return key

    def take(self, row: PromptRow, key: str) -> TakenImages:
        """Take the row's images under a key of `key_of`; a refused row stands for one."""
        indices = list(row.image_indices)
        if gone := self._taken_down(row, key):
            indices = [index for index in indices if index not in gone]
            if not indices:
                return TakenImages(image_indices=sorted(gone)[:1], reason=TAKEN_DOWN)
        if row.reason is not None:
            return TakenImages(
                image_indices=indices, reason=row.reason, error_message=row.error_message
            )
        if not self._is_free(key, row):
            return TakenImages(
                image_indices=indices[:1],
                reason="key_collision",
                error_message="an earlier row of this key is another one",
            )
        new = [index for index in indices if f"{key}-{index}" not in self._contents]
        if not new:
            return TakenImages(image_indices=indices[:1], reason="duplicate_row")
        if key in self._settled:
            return TakenImages(
                image_indices=indices[:1],
                reason="key_collision",
                error_message="select.best_of has its choice of this key's images, in one shard",
            )
        if key != row.key:
            self.num_renamed += 1
            self.renamed = self.renamed or (row.key, key)
        self.num_alike += self._is_elsewhere(row.content, key, new)
        self._add(key, new, row.content)
        return TakenImages(image_indices=new)

    def _taken_down(self, row: PromptRow, key: str) -> set[int]:
        """Which of the row's images were taken down."""
        if not self.tombstones:
            return set()
        indices = list(row.image_indices)
        images = pa.table(
            {
                "key": [f"{key}-{index}" for index in indices],
                "prompt_key": [key] * len(indices),
                "init_key": pa.array([row.settings.get("init_key")] * len(indices), pa.string()),
                "content": [image_content(row.content, index) for index in indices],
            }
        )
        return {
            index
            for index, gone in zip(indices, self.tombstones.hides(images), strict=True)
            if gone
        }

    def _is_free(self, key: str, row: PromptRow) -> bool:
        """Whether no image of that name is made from anything else."""
        found = (self._contents.get(f"{key}-{index}") for index in row.image_indices)
        return all(content in (None, row.content) for content in found)

    def _is_elsewhere(self, content: str, key: str, indices: list[int]) -> bool:
        first = self._keys.get(content, key)
        return first != key and any(f"{first}-{index}" in self._contents for index in indices)

    def _add(self, key: str, indices: list[int], content: str) -> None:
        self._contents.update((f"{key}-{index}", content) for index in indices)
        self._keys.setdefault(content, key)
