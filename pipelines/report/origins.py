"""Where a run comes from: its list and its models."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.plan import load_plan
from pipelines.prompts import is_prompt_plan, load_prompt_plan
from pipelines.run.store import RunStore


@dataclass(frozen=True, kw_only=True)
class ListFile:
    """A file of the run's list; `rows` None where the plan does not count them by file."""

    name: str
    rows: int | None
    sha256: str


def planned_files(store: RunStore) -> list[ListFile]:
    """The files that the plan was made of."""
    if is_prompt_plan(store):
        prompts = load_prompt_plan(store).files
        return [ListFile(name=file.name, rows=None, sha256=file.sha256) for file in prompts]
    files = load_plan(store).files
    return [ListFile(name=f.name, rows=f.num_rows, sha256=f.sha256) for f in files]


def named_models(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each model of a run's record, by what it is for."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}, {part}", text) for part, text in named_models(value))
        else:
            yield name, str(value)
