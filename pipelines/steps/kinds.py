"""The table of steps: what each of them is, said once, for everything that goes over steps."""

from typing import Final

from pipelines.rows import ledger
from pipelines.run.cache_files import LATENTS_FOLDER
from pipelines.run.crops import KEPT_FOLDER
from pipelines.run.revision_files import ORIGINS
from pipelines.steps.kind import Folder, StepKind
from pipelines.steps.publish.step import (
    KEPT_METADATA,
    PublishConfig,
    PublishStep,
    inputs_of,
    is_of_the_same_inputs,
    rewrite_kept,
)
from pipelines.steps.rewrite import (
    rewrite_download,
    rewrite_generated,
    rewrite_latents,
    rewrite_ledger,
    rewrite_scores,
)

_QUARANTINED: Final = ledger.ENGINE_REASONS

STEP_KINDS: Final[dict[str, StepKind]] = {
    kind.name: kind
    for kind in (
        StepKind(
            name="download",
            folders=(
                Folder(path="images", holds="kept"),
                Folder(path="facts/download", holds="rows_in", schema=ledger.DOWNLOAD_FACTS),
            ),
            reasons=frozenset(
                (
                    *(*ledger.PLAN_REASONS, *ledger.RULE_REASONS, *ledger.FETCH_REASONS),
                    *(*ledger.DECODE_REASONS, *ledger.TAKEDOWN_REASONS, *_QUARANTINED),
                )
            ),
            makes_images=True,
            loads_models=False,
            taken_over="amendments",
            rewrite=rewrite_download,
        ),
        StepKind(
            name="generate",
            folders=(
                Folder(path="images", holds="kept"),
                Folder(path="facts/generate", holds="rows_in", schema=ledger.GENERATE_FACTS),
                Folder(path="metadata", holds="kept"),
                Folder(path=LATENTS_FOLDER, holds="some"),  # those of one size
            ),
            reasons=frozenset(
                (
                    *(*ledger.PLAN_REASONS, *ledger.PROMPT_REASONS),
                    *(*ledger.GENERATE_REASONS, *ledger.TAKEDOWN_REASONS, *_QUARANTINED),
                )
            ),
            makes_images=True,
            rewrite=rewrite_generated,
        ),
        StepKind(
            name="score",
            folders=(
                Folder(path="facts/score", holds="rows_in", schema=ledger.SCORE_FACTS),
                Folder(path="facts/score/rejects", holds="dropped", schema=ledger.REJECTS),
            ),
            reasons=frozenset((*ledger.SCORE_REASONS, *_QUARANTINED)),
            parents=ORIGINS,
            taken_over="inputs",
            rewrite=rewrite_scores,
        ),
        StepKind(
            name="select",
            folders=(Folder(path="ledger", holds="rows_in", schema=ledger.LEDGER, shown="ledger"),),
            reasons=ledger.REASONS - set(ledger.ENCODE_REASONS) | {ledger.ROW_FAILED},
            parents=(*ORIGINS, "score"),
            is_recut=True,
            rewrite=rewrite_ledger,
        ),
        StepKind(
            name="publish",
            folders=(
                Folder(path=KEPT_FOLDER, holds="kept", shown="images"),
                Folder(path=KEPT_METADATA, holds="some", shown="metadata"),
            ),
            reasons=frozenset(_QUARANTINED),
            parents=(*ORIGINS, "select"),
            is_recut=True,
            taken_over="inputs",
            loads_models=False,
            rewrite=rewrite_kept,
            config=PublishConfig,
            build=PublishStep,
            inputs=inputs_of,
            is_same=is_of_the_same_inputs,
            is_default=True,
        ),
        StepKind(
            name="encode",
            folders=(
                Folder(path="latents", holds="kept", shown="latents"),
                Folder(path="latents/rejects", holds="dropped", schema=ledger.REJECTS),
            ),
            reasons=frozenset((*ledger.ENCODE_REASONS, *_QUARANTINED)),
            parents=(*ORIGINS, "select"),
            is_grouped=True,
            is_recut=True,
            taken_over="inputs",
            rewrite=rewrite_latents,
        ),
    )
}
"""Every step, each after those that it reads."""


def kinds_of(origin: str) -> list[StepKind]:
    """The steps of a run whose images `origin` makes, in order."""
    kinds = STEP_KINDS.values()
    return [kind for kind in kinds if not kind.makes_images or kind.name == origin]


def later_steps(step: str) -> frozenset[str]:
    """The steps that are made from a step's results, and those made from theirs."""
    found = {step}
    for kind in STEP_KINDS.values():  # in order, so that one pass finds all
        if found.intersection(kind.parents):
            found.add(kind.name)
    return frozenset(found - {step})


def recut_kinds() -> frozenset[str]:
    """The steps that can be asked for by name with other options."""
    return frozenset(kind.name for kind in STEP_KINDS.values() if kind.is_recut)


def shown_folders() -> dict[str, dict[str, str]]:
    """Of each step the folders that readers are shown, with the name of each in the run."""
    return {
        name: {folder.path: folder.shown for folder in kind.folders if folder.shown is not None}
        for name, kind in STEP_KINDS.items()
    }


def every_folder() -> list[str]:
    """Everywhere in a run where committed files lie."""
    return list(dict.fromkeys(path for kind in STEP_KINDS.values() for path in kind.paths))


def further_kinds() -> dict[str, StepKind]:
    """The steps that a configuration asks for under `steps:`."""
    return {name: kind for name, kind in STEP_KINDS.items() if kind.config is not None}
