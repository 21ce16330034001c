"""How well a run did on rows whose truth is known: the list's `planted` column."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jobs.demo.bad_urls import BAD_URLS
from jobs.demo.outcome import DemoOutcome

GOOD: Final = "good"
BAD_URL_PREFIX: Final = "bad_url:"
DUPLICATE_ROW: Final = "duplicate_row"

MIN_FLAWED_DROPPED: Final = 0.95
MIN_GOOD_KEPT: Final = 0.90


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Rows of one kind and how many of them met the right end."""

    kind: str
    rows: int
    right: int

    @property
    def share(self) -> float:
        """Between 0 and 1; 1 where there are no rows."""
        return self.right / self.rows if self.rows else 1.0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a run made of planted rows.

    Attributes:
        flaws: For each kind of flawed picture, how many were dropped.
        good: Good pictures that were kept.
        bad_urls: Bad URLs that were dropped for the reason expected of each.
        duplicate_rows: Repeated list rows that were dropped as such.
        surprises: One line for each bad URL or repeated row that met another end.
    """

    flaws: Sequence[Recall]
    good: Recall
    bad_urls: Recall
    duplicate_rows: Recall
    surprises: Sequence[str]

    @property
    def flawed(self) -> Recall:
        """All flawed pictures together."""
        rows = sum(flaw.rows for flaw in self.flaws)
        return Recall(kind="flawed", rows=rows, right=sum(flaw.right for flaw in self.flaws))

    @property
    def is_good_enough(self) -> bool:
        """Whether the shares reach the demo's bounds and every bad URL met its reason."""
        return (
            self.flawed.share >= MIN_FLAWED_DROPPED
            and self.good.share >= MIN_GOOD_KEPT
            and not self.surprises
        )


def judge_outcomes(outcomes: Iterable[DemoOutcome]) -> Findings:
    """Compare what became of every row with what was planted."""
    by_kind: dict[str, list[DemoOutcome]] = {}
    for outcome in outcomes:
        by_kind.setdefault(outcome.planted or GOOD, []).append(outcome)
    bad_urls = {kind: rows for kind, rows in by_kind.items() if kind.startswith(BAD_URL_PREFIX)}
    expected = {kind: BAD_URLS[kind.removeprefix(BAD_URL_PREFIX)].reason for kind in bad_urls}
    repeated = {DUPLICATE_ROW: by_kind.get(DUPLICATE_ROW, [])}
    good = by_kind.get(GOOD, [])
    flaws = {
        kind: rows
        for kind, rows in by_kind.items()
        if kind not in bad_urls and kind not in (GOOD, DUPLICATE_ROW)
    }
    return Findings(
        flaws=[
            Recall(kind=kind, rows=len(rows), right=sum(not row.kept for row in rows))
            for kind, rows in sorted(flaws.items())
        ],
        good=Recall(kind=GOOD, rows=len(good), right=sum(row.kept for row in good)),
        bad_urls=_matching("bad URLs", bad_urls, expected),
        duplicate_rows=_matching("repeated rows", repeated, {DUPLICATE_ROW: "duplicate_row"}),
        surprises=[
            *_surprises(bad_urls, expected),
            *_surprises(repeated, {DUPLICATE_ROW: "duplicate_row"}),
        ],
    )


def findings_table(findings: Findings) -> str:
    """The findings as text, one line a kind."""
    lines = [f"{'planted':<16} {'rows':>6} {'dropped':>8} {'share':>7}"]
    lines += [_line(flaw) for flaw in (*findings.flaws, findings.flawed)]
    lines[-1] += f"   at least {MIN_FLAWED_DROPPED:.0%} is asked"
    lines += ["", f"{'':<16} {'rows':>6} {'as meant':>8} {'share':>7}"]
    lines.append(_line(findings.good) + f"   kept; at least {MIN_GOOD_KEPT:.0%} is asked")
    lines.append(_line(findings.bad_urls) + "   dropped for the reason expected of each")
    lines.append(_line(findings.duplicate_rows) + "   dropped as duplicate_row")
    lines += [f"NOT AS EXPECTED: {surprise}" for surprise in findings.surprises]
    return "\n".join(lines)


def bad_url_table(outcomes: Iterable[DemoOutcome]) -> str:
    """Each bad URL of a run beside the reason expected of it and the one it got."""
    lines = [f"{'bad URL':<28} {'expected':<20} found"]
    for outcome in outcomes:
        name = (outcome.planted or "").removeprefix(BAD_URL_PREFIX)
        if outcome.planted == BAD_URL_PREFIX + name:
            expected = BAD_URLS[name].reason
            found = outcome.reason or "kept"
            note = "" if found == expected else "   NOT AS EXPECTED"
            lines.append(f"{name:<28} {expected:<20} {found}{note}")
    return "\n".join(lines)


def _line(recall: Recall) -> str:
    return f"{recall.kind:<16} {recall.rows:>6} {recall.right:>8} {recall.share:>7.1%}"


def _matching(
    kind: str, rows: Mapping[str, Sequence[DemoOutcome]], expected: Mapping[str, str]
) -> Recall:
    ends = [row.reason == expected[name] for name, group in rows.items() for row in group]
    return Recall(kind=kind, rows=len(ends), right=sum(ends))


def _surprises(rows: Mapping[str, Sequence[DemoOutcome]], expected: Mapping[str, str]) -> list[str]:
    return [
        f"{name}: expected {expected[name]}, found {row.reason or 'kept'}"
        for name, group in sorted(rows.items())
        for row in group
        if row.reason != expected[name]
    ]
