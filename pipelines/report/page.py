"""The page: everything is read, then written as one file that needs nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from pipelines.report.captions import count_cut_captions
from pipelines.report.charts import histogram_chart, rates_chart
from pipelines.report.examples import SHOWN_A_REASON, Examples, Reason, choose_examples
from pipelines.report.histograms import Histogram, bounds_of, count_histograms
from pipelines.report.ledgers import Ledgers
from pipelines.report.pictures import read_thumbnails
from pipelines.report.speeds import gather_rates
from pipelines.report.texts import shown_text
from pipelines.rows.ledger import DECODE_REASONS, FETCH_REASONS
from pipelines.run.crops import read_removed
from pipelines.run.funnel import funnel_of
from pipelines.run.rates import read_rates
from pipelines.run.record import Revision, read_revision, read_run
from pipelines.run.store import RunStore
from sd_core.errors import InputError

REPORT_FILE = "report/index.html"
_SHOWN_DOMAINS = 20
_TEXT_CHARS = 300


class ReportError(InputError):
    """The run cannot be shown yet; says what is missing and what to do."""


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """What a step was given, dropped and kept."""

    name: str
    rows_in: int
    dropped: Mapping[str, int]
    kept: int


def make_report(store: RunStore) -> str:
    """The page of a run as HTML; it needs no other file and no network.

    Memory is that of a shard's ledger, of a float a kept row, and of the domains.

    Raises:
        ReportError: it is not a run, or its select step is not complete.
        ShardError: a file is missing or damaged.
    """
    revision = read_revision(store)
    if "select" not in revision.steps:
        raise ReportError(
            f"{store.root}: select is not complete, so that there is no ledger to show; run the "
            "job (its steps up to select) first"
        )
    ledgers = Ledgers(store)
    run = read_run(store)
    options = run.get("steps", {}).get("select", {}).get("options", {})
    histograms, left_out = count_histograms(ledgers, bounds_of(options))
    examples = choose_examples(ledgers)
    return _template("report.html").render(
        title=f"{run.get('job', 'run')}: {store.root.rstrip('/').rpartition('/')[2]}",
        run=run,
        revision=revision.number,
        funnel=funnel_steps(revision, ledgers.origin),
        reasons=_reasons(examples),
        rows_in=revision.steps["select"].rows_in,
        kept=revision.steps["select"].kept,
        refused=num_refused(revision),
        captions=count_cut_captions(ledgers),
        shown_a_reason=SHOWN_A_REASON,
        thumbnails=read_thumbnails(ledgers, examples.rows()),
        examples=examples,
        removed=read_removed(store),
        histograms=[_histogram(histogram) for histogram in histograms],
        left_out=left_out,
        domains=_domains(examples),
        num_domains=len(examples.all_domains),
        fetching=_fetching(revision, ledgers.origin),
        rates=[
            {"step": rates.step, "chart": rates_chart(rates), "text": rates.text}
            for rates in gather_rates(read_rates(store))
        ],
        is_generated=ledgers.origin == "generate",
    )


def write_report(store: RunStore) -> str:
    """Make the page and put it into the run; returns where, and how large it is."""
    page = make_report(store).encode()
    store.replace(REPORT_FILE, page)
    # A URL as it was given: without its protocol nobody would know the user information in it.
    where = store.absolute(REPORT_FILE) if store.is_local else f"{store.root}/{REPORT_FILE}"
    return f"{where} ({len(page) / 1e6:.1f} MB)"


def funnel_steps(revision: Revision, origin: str) -> list[FunnelStep]:
    """The steps in order; each row is counted at the step that dropped it."""
    return [
        FunnelStep(name=name, rows_in=step.rows_in, dropped=step.dropped, kept=step.kept)
        for name, step in funnel_of(revision, origin)
    ]


def num_refused(revision: Revision) -> int:
    """Rows that select kept and encode refused; a shard that was given up is counted too."""
    encode = revision.steps.get("encode")
    return sum(encode.dropped.values()) if encode is not None else 0


def template_environment(*, autoescape: bool) -> jinja2.Environment:
    """Templates of this package; an undefined name is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.report"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> jinja2.Template:
    environment = template_environment(autoescape=True)
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["share"] = lambda part, whole: f"{part / whole:.1%}" if whole else "0%"
    environment.filters["short"] = _short
    return environment.get_template(name)


def _short(text: str | None) -> str:
    text = shown_text(text)
    return text if len(text) <= _TEXT_CHARS else text[: _TEXT_CHARS - 1] + "…"


def _reasons(examples: Examples) -> list[Reason]:
    reasons = [*examples.reasons.values()]
    return sorted(reasons, key=lambda reason: (-reason.count, reason.reason))


def _histogram(histogram: Histogram) -> dict[str, Any]:
    kept, dropped = int(histogram.kept.sum()), int(histogram.dropped.sum())
    bounds = ", ".join(str(bound) for bound in histogram.bounds)
    return {
        "column": histogram.column,
        "chart": histogram_chart(histogram),
        "text": f"{kept:,} kept and {dropped:,} dropped rows with a value, "
        f"{histogram.missing:,} without"
        + (f"; threshold {bounds}" if bounds else "; no threshold"),
    }


def _domains(examples: Examples) -> list[dict[str, Any]]:
    return [
        {"name": name, "rows": rows, "kept": examples.kept_domains[name]}
        for name, rows in sorted(examples.all_domains.items(), key=lambda item: (-item[1], item[0]))
    ][:_SHOWN_DOMAINS]


def _fetching(revision: Revision, origin: str) -> list[tuple[str, int]]:
    dropped = revision.steps[origin].dropped
    failed = [
        (name, dropped[name]) for name in (*FETCH_REASONS, *DECODE_REASONS) if name in dropped
    ]
    return sorted(failed, key=lambda item: (-item[1], item[0]))
