"""The page: everything is read, then written as one file that needs nothing else."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import jinja2
import yaml

from pipelines.plan import PlanError
from pipelines.report.captions import count_cut_captions
from pipelines.report.charts import histogram_chart, rates_chart
from pipelines.report.examples import Examples, Reason, choose_examples
from pipelines.report.histograms import Histogram, bounds_of, count_histograms
from pipelines.report.ledgers import Ledgers
from pipelines.report.origins import named_models, planned_files
from pipelines.report.pictures import read_thumbnails
from pipelines.report.speeds import gather_rates
from pipelines.report.status import last_activity_of
from pipelines.report.texts import shown_text
from pipelines.run.crops import read_removed
from pipelines.run.funnel import funnel_of, steps_by_reason
from pipelines.run.rates import read_rates
from pipelines.run.record import Revision, read_revision, read_run
from pipelines.run.store import RunStore
from sd_core.errors import InputError
from sd_core.say import Say

REPORT_FILE = "report/index.html"
_SHOWN_DOMAINS = 20
_SHOWN_FILES = 3
_TEXT_CHARS = 300
_HEAD_BYTES: Final = 4096


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
        mark=_mark(revision),
        revision=revision.number,
        made=last_activity_of(store),
        sources=_sources(store),
        models=sorted(named_models(run.get("models") or {})),
        config=_config(run.get("config") or {}),
        funnel=funnel_steps(revision, ledgers.origin),
        reasons=_reasons(examples),
        rows_in=revision.steps["select"].rows_in,
        kept=revision.steps["select"].kept,
        refused=num_refused(revision),
        captions=count_cut_captions(ledgers),
        thumbnails=read_thumbnails(ledgers, examples.rows()),
        examples=examples,
        removed=read_removed(store),
        histograms=[_histogram(histogram) for histogram in histograms],
        left_out=left_out,
        domains=_domains(examples),
        num_domains=len(examples.all_domains),
        steps=steps_by_reason(revision, ledgers.origin),
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


def renew_report(store: RunStore, say: Say) -> None:
    """Make a page that a run has anew, where it is of another revision; nothing where there is
    none."""
    try:
        with store.open(REPORT_FILE) as stream:
            head = stream.read(_HEAD_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return
    revision = read_revision(store)
    if "select" in revision.steps and _mark(revision) not in head:
        say(f"report: made anew: {write_report(store)}")


def _mark(revision: Revision) -> str:
    """Stands in the page's head, and says of what it is."""
    fingerprints = " ".join(step.fingerprint for step in revision.steps.values())
    return f"revision {revision.number}: {fingerprints}"


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
    environment.filters["parted"] = lambda url: re.split(r"(?<=[_/?&=.,-])", url)
    environment.filters["figure"] = lambda number: f"{number:.4g}"
    return environment.get_template(name)


def _short(text: str | None) -> str:
    text = shown_text(text)
    return text if len(text) <= _TEXT_CHARS else text[: _TEXT_CHARS - 1] + "…"


def _sources(store: RunStore) -> list[str]:
    with suppress(PlanError):  # a run that was made without one
        files = planned_files(store)
        told = [
            shown_text(file.name) + (f" ({file.rows:,} rows)" if file.rows is not None else "")
            for file in files[:_SHOWN_FILES]
        ]
        left = len(files) - len(told)
        return [*told, f"{left:,} more files"] if left else told
    return []


def _config(config: Mapping[str, Any]) -> str:
    """What was asked for, as run.json has it: without secrets."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100)
    return "\n".join(map(shown_text, text.splitlines()))


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
