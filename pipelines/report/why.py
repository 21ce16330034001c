"""The life of one row of a run: what became of it at each step, and why it ended as it did."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from pipelines.plan import PlanError, load_plan
from pipelines.revisions.readers import read_shown
from pipelines.rows.ledger import ORIGIN_FACTS, SCORES
from pipelines.rules.tombstones import masked_key, read_tombstones
from pipelines.run.crops import KEPT_FOLDER, images_file
from pipelines.run.images import damaged, image_places
from pipelines.run.reader import Run
from pipelines.run.record import read_run
from pipelines.run.revision_files import NotInRunError
from pipelines.run.used_by import read_used_by
from sd_core.redact import redact_url

_NUMBER: Final = re.compile(r"(\d{1,9}):(\d{1,9})")
_VERDICT: Final = ("kept", "reason", "rule", "duplicate_of", "error_message")
_IDENTITY: Final = ("key", "shard_id", "row", "url", "caption")

Life = dict[str, Any]


def life_of(run: Run, what: str) -> Life:
    """What a run knows of a row, stage by stage; plain JSON, nothing secret, nothing null.

    Args:
        what: Its URL as the list has it, its key (of a generated image, the name of its file), or
            `shard:row` as the ledger numbers them.

    Raises:
        NotInRunError: the list has no such row.
        IncompleteRunError: select is not complete.
        ShardError: a file of the run is missing or damaged.
    """
    row = _find(run, what)
    record = read_run(run.store)
    config = record.get("config", {})
    measured = [field.name for field in ORIGIN_FACTS[run.origin]]
    origin = [name for name in measured if name not in (*_IDENTITY, *_VERDICT)]
    scored = _score_columns(record)
    known = {*measured, *_VERDICT, *scored}
    life = {
        "row": {name: row[name] for name in _IDENTITY},
        "list": _place_in_list(run, row),
        "source": {name: value for name, value in row.items() if name.startswith("source_")},
        run.origin: {name: row[name] for name in origin},
        "scores": _scores(row, config, scored),
        "other": {n: v for n, v in row.items() if n not in known and not n.startswith("source_")},
        "verdict": {name: row[name] for name in _VERDICT},
        "stored": _stored(run, row, config),
        "models": record.get("models") if run.origin == "generate" else None,
        "used_by": list(_used_by(run)) if row["kept"] else None,
    }
    told = {stage: _without_nulls(found) for stage, found in life.items()}
    return {stage: found for stage, found in told.items() if found}


def _without_nulls(found: Any) -> Any:
    return {n: v for n, v in found.items() if v is not None} if isinstance(found, dict) else found


def _find(run: Run, what: str) -> dict[str, Any]:
    numbered = _NUMBER.fullmatch(what)
    if numbered is not None:
        return run.row_at(*map(int, numbered.groups()))
    masked = () if "://" in what else (masked_key(what),)  # what a takedown left of a key
    for candidate in (what, *masked):
        try:
            return run.row(candidate)
        except NotInRunError:
            continue
    if read_tombstones(run.store).hides_url(what):
        raise NotInRunError(
            f"{run.path}: {redact_url(what)} was taken down, or its domain was: only the number of "
            "its row is left, under the reason taken_down"
        )
    raise NotInRunError(
        f"{run.path}: no row of its list has the URL, key or number {redact_url(what)}; a URL is "
        "given as the list has it, a number as shard:row"
    )


def _place_in_list(run: Run, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The list's file and the row's number in it; None where the plan keeps rows of its own."""
    try:
        where = load_plan(run.store).shard(row["shard_id"])
    except PlanError:
        return None
    return {"file": where.file, "row": where.start_row + row["row"]}


def _score_columns(record: Mapping[str, Any]) -> list[str]:
    """Those of every run, then what the run's further scorers make, by their recorded options."""
    options = record.get("steps", {}).get("score", {}).get("options", {}).get("score", {})
    sections = (section for section in options.values() if isinstance(section, Mapping))
    told = (column for section in sections for column in section.get("columns", ()))
    return list(dict.fromkeys((*SCORES, *(column.partition(":")[0] for column in told))))


def _scores(
    row: Mapping[str, Any], config: Mapping[str, Any], columns: Iterable[str]
) -> dict[str, str]:
    """Each score with the thresholds that the run's rules have for it."""
    rules = (config.get("select") or {}).get("rules") or []
    told: dict[str, str] = {}
    for name in columns:
        if (value := row.get(name)) is None:
            continue
        bounds = [
            f"{bound} {rule[bound]:g}"
            for rule in rules
            if rule.get("column") == name
            for bound in ("min", "max")
            if rule.get(bound) is not None
        ]
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        told[name] = shown + (f" ({', '.join(bounds)})" if bounds else "")
    return told


def _stored(run: Run, row: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Where its image and its latents lie: files of the run, in which it goes by its key; of a kept
    row, as readers find them."""
    shard_id = row["shard_id"]
    found = _stored_image(run, row) if row["status"] == "success" else {}
    shown = {file.committed: file.path for file in read_shown(run.store).values()}
    if row["kept"] and "publish" in run.revision.steps:
        image = run.committed("publish").file(shard_id, KEPT_FOLDER)
        if image is not None:
            found["image"] = shown.get(image.path) or run.store.place(image.path)
    if row["kept"] and "encode" in run.revision.steps:
        group = (config.get("encode") or {}).get("download_shards_per_file", 1)
        latents = run.committed("encode").file(shard_id // group, "latents")
        if latents is not None:
            found["latents"] = shown.get(latents.path) or run.store.place(latents.path)
    return found


def _stored_image(run: Run, row: Mapping[str, Any]) -> dict[str, str]:
    crops = run.committed(run.origin).file(row["shard_id"], "images")
    image = images_file(run.store, crops)
    if image != crops and not row["kept"]:
        places: Mapping[str, Any] = {}
        if image is not None:
            with run.store.open(image.path) as stream:
                places = image_places(stream, fault=damaged(image.path))
        if row["key"] not in places:
            return {"image": "removed: clean --crops"}
    return {} if image is None else {"image": run.store.place(image.path)}


def _used_by(run: Run) -> Iterator[Any]:
    """The jobs that used the run, in this revision or in one that was cut otherwise."""
    for path, word in read_used_by(run.store):
        yield asdict(word) if word is not None else f"{path}: damaged"


def life_lines(life: Life) -> Iterator[str]:
    for stage, told in life.items():
        yield f"{stage}:"
        items = told.items() if isinstance(told, dict) else enumerate(told, start=1)
        for name, value in items:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"    {name}: {text}"
