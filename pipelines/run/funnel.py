"""What each step of a run was given, dropped and kept, every row at the step that dropped it."""

from collections import Counter
from dataclasses import replace

from pipelines.run.record import Revision, StepSummary


def funnel_of(revision: Revision, origin: str) -> list[tuple[str, StepSummary]]:
    """The complete steps in order.

    The ledger counts every row; here select has only those that it dropped itself. Score and
    publish are shown where they dropped rows: mostly they drop none.

    Args:
        origin: The step that made the run's images.
    """
    steps = revision.steps
    if origin not in steps:
        return []
    shown = [(origin, steps[origin])]
    stored, before = steps[origin].kept, Counter(steps[origin].dropped)
    if "score" in steps and steps["score"].dropped:
        shown.append(("score", steps["score"]))
        stored -= sum(steps["score"].dropped.values())
        before += Counter(steps["score"].dropped)
    if "select" in steps:
        own = Counter(steps["select"].dropped) - before
        shown.append(("select", replace(steps["select"], rows_in=stored, dropped=dict(own))))
    told = {name for name, _ in shown} | {"score"}
    told |= {"publish"} if "publish" in steps and not steps["publish"].dropped else set()
    return [*shown, *((name, step) for name, step in steps.items() if name not in told)]


def steps_by_reason(revision: Revision, origin: str) -> dict[str, str]:
    """The step that dropped rows for a reason; the first, where several did."""
    found: dict[str, str] = {}
    for name, step in funnel_of(revision, origin):
        for reason in step.dropped:
            found.setdefault(reason, name)
    return found
