"""Write configs/REFERENCE.md: every key of every configuration, from the models that check them.

    python -m jobs.reference                     # (or: make reference)
    python -m jobs.reference --output page.md

What a key means is the text under its field; of a section without one it is what the
section's class begins with. A number's unit is the end of its name (`timeout_s`), or stands at the
end of its text (`Unit: share.`).

Exit codes: `ExitCode` in jobs/exit_codes.py; `--help` lists them.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from jobs.command_line import check_output_file, job_parser, run_job
from jobs.exit_codes import ExitCode
from sd_core.say import Say

Model = type[BaseModel]

REFERENCE: Final = Path(__file__).resolve().parents[1] / "configs/REFERENCE.md"
UNITS: Final = {
    "seconds": ("_s",),
    "pixels": ("_px", "size", "width", "height", "side", "pixels"),
    "bytes": ("_bytes",),
    "images": ("slice_size", "batch_size", "images", "images_per_shard"),
    "rows": ("rows_per_shard",),
    "characters": ("_chars",),
    "words": ("_words",),
    "steps": ("steps", "_step", "_every", "timesteps"),
    "shards": ("_shards",),
    "threads": ("threads",),
    "processes": ("_workers",),
    "tries": ("_tries", "retries"),
    "redirects": ("_redirects",),
    "fetches": ("_per_host",),
    "cosine": ("similarity",),
    "longer side over shorter": ("_aspect",),
    "factor": ("weight",),
    "TFLOP/s": ("_tflops",),
    "number": ("seed",),
}
"""Units by the end of a name; of several ends the longest counts."""

_WORDS: Final = {
    NoneType: "null",
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Any: "any value",
}
_BOUNDS: Final = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_INTRODUCTION: Final = """# Every key of the configurations

Made by `make reference` from the models that check a configuration, and held current by a test: \
change the text under a field, not this page.

A key is set in the YAML file or by `--set section.key=value`. `N` stands for a place in a list, \
from 0; `<name>` for a name of your own; `…` for any of the places that a section says it is of. A \
key without a default must be set, unless the whole section is left out."""


@dataclass(frozen=True)
class Key:
    """One key of a section, as people read it; `fault` names what it lacks."""

    name: str
    meaning: str
    unit: str
    type: str = ""
    default: str = ""

    @property
    def fault(self) -> str:
        """What is missing for a person to use the key; empty where nothing is."""
        if not self.meaning:
            return "has no text under its field"
        return "is a number without a unit" if not self.unit else ""


def job_models() -> dict[str, Model]:
    """The model of each kind of configuration."""
    from pipelines.training.config import AutoencoderTrainConfig, TrainConfig
    from pipelines.workflows.curate_config import CurateConfig
    from pipelines.workflows.generate_config import GenerateJobConfig

    return {
        "curate": CurateConfig,
        "train, denoiser": TrainConfig,
        "train, autoencoder": AutoencoderTrainConfig,
        "generate": GenerateJobConfig,
    }


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    options = _parse(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    check_output_file(options.output, "--output")
    options.output.write_text(reference_page(), encoding="utf-8")
    say(f"reference: {options.output}")
    return ExitCode.DONE


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = job_parser(__doc__, prog="python -m jobs.reference")
    parser.add_argument("--output", type=Path, default=REFERENCE, help="a local file")
    return parser.parse_args(arguments)


def reference_page() -> str:
    """The page as Markdown: a part for each section, in the order in which it is met."""
    parts = [_INTRODUCTION]
    parts += [_part(model, places) for model, places in sections(job_models()).items()]
    return "\n\n".join(parts) + "\n"


def sections(jobs: dict[str, Model]) -> dict[Model, dict[str, list[str]]]:
    """Each section's model, with the keys it stands at in each job ("" for the job itself)."""
    found: dict[Model, dict[str, list[str]]] = {}
    for job, model in jobs.items():
        for section, place in _walk(model, ""):
            found.setdefault(section, {}).setdefault(job, []).append(place)
    return found


def keys_of(model: Model) -> list[Key]:
    """The keys of one section, in the order of its fields."""
    return [_key(field.alias or name, field) for name, field in _fields_of(model).items()]


def faults(jobs: dict[str, Model]) -> list[str]:
    """A line for each key that a person could not use: no text, or a number without a unit."""
    return [
        f"{model.__module__}.{model.__name__}.{key.name} {key.fault}"
        for model in sections(jobs)
        for key in [Key(name="", meaning=_title(model), unit="–"), *keys_of(model)]
        if key.fault
    ]


def _part(model: Model, places: dict[str, list[str]]) -> str:
    where = {place for found in places.values() for place in found}
    prefix = f"{where.pop()}." if len(where) == 1 else "…."
    stands = "; ".join(
        f"{job}: {', '.join(f'`{place}`' for place in found if place) or 'the file itself'}"
        for job, found in places.items()
    )
    rows = [
        f"| `{prefix.removeprefix('.')}{key.name}` | {key.type} | {key.default} | {key.unit} "
        f"| {key.meaning} |"
        for key in keys_of(model)
    ]
    head = ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
    return "\n".join([f"## {_title(model).rstrip('.')}", "", f"Of {stands}.", "", *head, *rows])


def _walk(model: Model, place: str) -> Iterator[tuple[Model, str]]:
    yield model, place
    for name, field in _fields_of(model).items():
        for section, step in _sections_of(field):
            yield from _walk(section, f"{place}.{name}{step}".removeprefix("."))


def _fields_of(model: Model) -> dict[str, FieldInfo]:
    """Its fields, then the sections that stand in a table of its own, as scorers do."""
    further: Mapping[str, Model] = getattr(model, "further_keys", dict)()
    kinds: dict[str, Any] = {name: section | bool | None for name, section in further.items()}
    sections = {name: FieldInfo(annotation=kind, default=None) for name, kind in kinds.items()}
    return {**model.model_fields, **sections}


def _sections_of(field: FieldInfo) -> Iterator[tuple[Model, str]]:
    return _sections_in(Annotated[field.annotation, *field.metadata, ""])  # "" for where none is


def _sections_in(annotation: Any) -> Iterator[tuple[Model, str]]:
    """The models in a type, with what a list or mapping adds to the key."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
    parts = get_args(annotation)
    tables = [part for part in parts if hasattr(part, "models") and not isinstance(part, type)]
    if tables:  # the value is a section of a table, whatever base its type names
        yield from ((model, "") for table in tables for model in table.models())
        return
    step = {list: ".N", tuple: ".N", dict: ".<name>"}.get(get_origin(annotation), "")
    for part in parts:
        for model, inner in _sections_in(part):
            yield model, step + inner


def _key(name: str, field: FieldInfo) -> Key:
    text = " ".join((field.description or "").split())
    models = [model for model, _ in _sections_of(field)]
    if models and (not text or NoneType in get_args(field.annotation)):
        text = f"{_title(models[0])} {text}".strip()
    meaning, _, told = text.partition(" Unit: ")
    is_number = any(_is_number(part) for part in _scalars(field.annotation))
    return Key(
        name=name,
        type=_type_of(field),
        default=_default_of(field),
        unit=(told.rstrip(".") or _unit_by_name(name)) if is_number else "–",
        meaning=meaning if meaning.endswith(".") or not meaning else f"{meaning}.",
    )


def _title(model: Model) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _unit_by_name(name: str) -> str:
    ends = {end: unit for unit, all_ends in UNITS.items() for end in all_ends}
    fitting = [end for end in ends if name == end.removeprefix("_") or name.endswith(end)]
    return ends[max(fitting, key=len)] if fitting else ""


def _scalars(annotation: Any) -> Iterator[Any]:
    """The plain types that a value may have; what stands in a mapping is the user's own."""
    if get_origin(annotation) in (dict, Literal):
        return
    parts = get_args(annotation)
    yield from [annotation] if not parts else (s for part in parts for s in _scalars(part))


def _is_number(kind: Any) -> bool:
    return kind in (int, float)


def _type_of(field: FieldInfo) -> str:
    bounds = [
        f"{words} {getattr(rule, sign):,}"
        for rule in field.metadata
        for sign, words in _BOUNDS.items()
        if hasattr(rule, sign)
    ]
    return ", ".join([_words(field.annotation), *bounds])


def _words(annotation: Any) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0])
    if origin is Literal:
        return " or ".join(f"`{str(part).lower()}`" for part in parts)
    if origin in (list, tuple):
        return f"list of: {_words(parts[0])}"
    if origin is dict:
        return f"mapping of names to: {'plain values' if _is_plain(parts[1]) else _words(parts[1])}"
    return " or ".join(dict.fromkeys(_words(part) for part in parts))


def _is_plain(annotation: Any) -> bool:
    return {str, int, float, bool} <= set(get_args(annotation))


def _default_of(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "must be set"
    if isinstance(value, BaseModel):
        return "as below"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    sys.exit(main())
