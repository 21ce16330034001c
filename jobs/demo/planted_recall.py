"""What select made of planted pictures: one row a kind, and the four promises."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.demo.planted import (
    BLOCKED,
    CHANGED,
    EXACT_COPY,
    FLAWED,
    RE_ENCODED,
    SINGLE,
    WRONG_CAPTION,
    PlantedRow,
)
from pipelines.rows.ledger import DUPLICATE_REASONS, REASONS

MIN_NEAR_FOUND: Final = 0.95
MAX_SINGLES_LOST: Final = 0.01

KINDS: Final = (SINGLE, EXACT_COPY, RE_ENCODED, CHANGED, FLAWED, WRONG_CAPTION, BLOCKED)
_BLOCK_REASONS = ("url_blocked", "sha256_blocked", "word_blocked")
_GROUPS = {
    "block lists": _BLOCK_REASONS,
    "rules": None,  # every other reason of select
    "same bytes": ("duplicate_bytes", "duplicate_url"),
    "near hash": ("duplicate_phash",),
    "near embedding": ("duplicate_embedding",),
}


@dataclass(frozen=True, kw_only=True)
class PlantedFindings:
    """Rows by kind and end, and how many pairs were looked at.

    Attributes:
        ends: For each kind, rows by the name of their end (`kept`, or a column of the table).
        exact: Exact copies that reached the search beside their original, and those found.
        near: The same for the re-encoded, resized, cropped and recoloured.
        singles: Single pictures that reached the search, and those that it dropped.
        not_one_reason: Rows of the ledger without exactly one reason, or none.
    """

    ends: Mapping[str, Counter[str]]
    exact: tuple[int, int]
    near: tuple[int, int]
    singles: tuple[int, int]
    blocked: tuple[int, int]
    not_one_reason: int

    @property
    def is_good_enough(self) -> bool:
        """Whether the promises hold."""
        return (
            self.exact[0] == self.exact[1]
            and self.blocked[0] == self.blocked[1]
            and self.near[1] >= MIN_NEAR_FOUND * self.near[0]
            and self.singles[1] <= MAX_SINGLES_LOST * self.singles[0]
            and not self.not_one_reason
        )


def judge_planted(
    rows: Sequence[PlantedRow], ledger: Iterable[Mapping[str, Any]]
) -> PlantedFindings:
    """Hold the ledger's rows (url, kept, reason) against what was planted.

    A pair counts where neither picture was dropped by a rule; it is found where one of the two is
    dropped as a duplicate. What the rules dropped is not the search's to find.
    """
    found = {row["url"]: row for row in ledger}
    ends: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for row in rows:
        ends[row.planted][_end(found[row.url]["reason"])] += 1
    exact = [row for row in rows if row.planted == EXACT_COPY]
    near = [row for row in rows if row.planted in (RE_ENCODED, CHANGED)]
    copied = {row.original for row in rows if row.original is not None}
    singles = [r for r in rows if r.planted == SINGLE and r.url not in copied]
    reached = [row for row in singles if _reached(found[row.url])]
    blocked = ends[BLOCKED]
    return PlantedFindings(
        ends=ends,
        exact=_pairs(exact, found),
        near=_pairs(near, found),
        singles=(len(reached), sum(_is_copy(found[row.url]) for row in reached)),
        blocked=(sum(blocked.values()), blocked["block lists"]),
        not_one_reason=sum(not _has_one_end(row) for row in found.values())
        + abs(len(found) - len(rows)),
    )


def planted_table(findings: PlantedFindings) -> str:
    """The findings as text."""
    head = ["kept", *_GROUPS]
    lines = [f"{'planted':<22} {'rows':>6} " + " ".join(f"{name:>14}" for name in head)]
    for kind in KINDS:
        ends = findings.ends[kind]
        counts = " ".join(f"{ends[name]:>14}" for name in head)
        lines.append(f"{kind:<22} {sum(ends.values()):>6} {counts}")
    asked = [
        ("exact copies found, of pairs that passed the rules", findings.exact, "100%"),
        ("other copies found, of pairs that passed the rules", findings.near, "at least 95%"),
        ("single pictures dropped as copies", findings.singles, "at most 1%"),
        ("rows of a block list dropped by it", findings.blocked, "100%"),
    ]
    lines.append("")
    for text, (of, number), bound in asked:
        share = number / of if of else 1.0
        lines.append(f"{text:<52} {number:>5} of {of:<5} {share:>7.2%}   {bound} is asked")
    lines.append(f"{'rows without exactly one end':<52} {findings.not_one_reason:>5}")
    return "\n".join(lines)


def _end(reason: str | None) -> str:
    if reason is None:
        return "kept"
    return next((name for name, of in _GROUPS.items() if of and reason in of), "rules")


def _is_copy(row: Mapping[str, Any]) -> bool:
    return row["reason"] in DUPLICATE_REASONS


def _reached(row: Mapping[str, Any]) -> bool:
    return row["reason"] is None or _is_copy(row)


def _pairs(copies: Sequence[PlantedRow], found: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    pairs = [(found[row.url], found[str(row.original)]) for row in copies]
    reached = [pair for pair in pairs if all(_reached(row) for row in pair)]
    return len(reached), sum(any(_is_copy(row) for row in pair) for pair in reached)


def _has_one_end(row: Mapping[str, Any]) -> bool:
    if row["kept"]:
        return row["reason"] is None
    return row["reason"] in REASONS
