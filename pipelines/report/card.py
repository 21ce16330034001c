"""The dataset card: `README.md` of a run, with the header that Hugging Face reads."""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow.compute as pc
import yaml

from pipelines.plan.record import read_plan_size
from pipelines.report.captions import count_cut_captions
from pipelines.report.ledgers import Ledgers
from pipelines.report.origins import named_models, planned_files
from pipelines.report.page import (
    FunnelStep,
    funnel_steps,
    num_refused,
    template_environment,
)
from pipelines.revisions.readers import FILES_LIST, ShownFile, read_shown
from pipelines.run.committed import Committed
from pipelines.run.record import read_run
from pipelines.run.store import RunStore
from pipelines.run.tables import read_parquet
from pipelines.steps.kinds import every_folder
from sd_core.sealed import sha256_of_bytes

CARD_FILE = "README.md"
_LICENCE = re.compile(r"source_licen[cs]e(_name|_url)?", re.IGNORECASE)
_MARK = "<!-- Latent Foundry renews this card; take this line out to keep your own text. -->"
_SHOWN_LICENCES = 30
_LISTED_SHARDS = 200
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
_MORE_SIZES = ((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"))


def write_card(store: RunStore, known: Collection[Committed] = ()) -> None:
    """Write or renew the card; nothing where select is not complete, or the README is another's.

    It holds no time and no path, so that equal runs have equal cards.

    Args:
        known: Steps of which a job holds the manifests in memory.
    """
    ledgers = Ledgers(store, tuple(known))
    if "select" not in ledgers.revision.steps or not is_ours(store):
        return
    card = make_card(ledgers).encode()
    if not store.exists(CARD_FILE) or store.read_bytes(CARD_FILE) != card:
        store.replace(CARD_FILE, card)


def is_ours(store: RunStore) -> bool:
    """Whether the run's README is a card, or there is none yet."""
    text = _read(store)
    return text is None or _MARK in text


def is_current(store: RunStore) -> bool:
    """Whether there is a card of the files that readers find, or a README of somebody's own."""
    text = _read(store)
    if text is None or _MARK not in text or store.is_flat:
        return text is not None
    shown = read_shown(store).values()
    folders = {file.folder for file in shown if file.path.endswith(".tar")}
    return all(_digest(shown, folder) in text for folder in folders)


def _read(store: RunStore) -> str | None:
    try:
        return store.read_bytes(CARD_FILE).decode(errors="replace")
    except FileNotFoundError:
        return None


def make_card(ledgers: Ledgers) -> str:
    """The card's text; texts of the list are shown as code, so that they mark nothing up."""
    run, select = read_run(ledgers.store), ledgers.revision.steps["select"]
    funnel = funnel_steps(ledgers.revision, ledgers.origin)
    licence_column, licences = _licences(ledgers)
    indexes = list(_indexes(ledgers))
    shown = [*read_shown(ledgers.store).values()]
    size, captioned = read_plan_size(ledgers.store), run.get("config", {}).get("captions")
    is_generated = ledgers.origin == "generate"
    text = (
        template_environment(autoescape=False)
        .get_template("card.md")
        .render(
            header=_header(
                ledgers,
                shown,
                kept=select.kept,
                is_generated=is_generated,
                license="other" if licences else "unknown",
            ),
            mark=_MARK,
            title="Generated images" if is_generated else "Curated images",
            is_generated=is_generated,
            kept=f"{select.kept:,}",
            rows_in=f"{select.rows_in:,}",
            has_images=bool(_tars(ledgers, shown, "images")),
            is_earlier=ledgers.store.is_flat,
            has_latents="encode" in ledgers.revision.steps,
            refused=f"{refused:,}" if (refused := num_refused(ledgers.revision)) else "",
            captions=captions.text if (captions := count_cut_captions(ledgers)) else "",
            sources=_sources(ledgers.store),
            limit=f"{size.limit:,}" if size is not None and size.limit else "",
            recaptions=_code(PurePosixPath(captioned["from"]).name) if captioned else "",
            licence_column=_code(licence_column or ""),
            licences=[(_code(name), f"{rows:,}") for name, rows in licences],
            funnel=[_shown_step(step) for step in funnel],
            reasons=_reasons(funnel),
            rules=list(_rules(run)),
            models=sorted((n, _code(m)) for n, m in named_models(run.get("models", {}))),
            indexes=indexes,
        )
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _header(
    ledgers: Ledgers,
    shown: Sequence[ShownFile],
    *,
    kept: int,
    is_generated: bool,
    license: str,
) -> str:
    size = next((name for most, name in (*_SIZES, *_MORE_SIZES) if kept < most), "n>1B")
    tree: dict[str, Any] = {
        "license": license,
        "task_categories": ["text-to-image"],
        "size_categories": [size],
        "tags": ["latent-foundry", "synthetic"] if is_generated else ["latent-foundry"],
    }
    configs = []
    # Tars alone: Hugging Face takes one format a repository for its configurations.
    for name in ("images", "latents"):
        if files := _tars(ledgers, shown, name):
            split = {"split": "train", "path": files}
            # Without it `load_dataset` takes another revision's rows from its own cache.
            told = {} if ledgers.store.is_flat else {"description": _digest(shown, name)}
            configs.append({"config_name": name, **told, "data_files": [split]})
    if configs:
        tree["configs"] = configs
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip()


def _tars(ledgers: Ledgers, shown: Sequence[ShownFile], folder: str) -> list[str]:
    """A pattern of the current tars, or each of them where they lie among others; none where it is
    Parquet."""
    paths = [file.path for file in shown if file.folder == folder and file.path.endswith(".tar")]
    if any(path.startswith(f"{folder}/") for path in paths):
        return [f"{folder}/*.tar"]
    return paths or _earlier_tars(ledgers, folder)


def _digest(shown: Collection[ShownFile], folder: str) -> str:
    text = "".join(f"{file.path} {file.sha256}\n" for file in shown if file.folder == folder)
    return f"sha256 {sha256_of_bytes(text.encode())}"


def _earlier_tars(ledgers: Ledgers, folder: str) -> list[str]:
    """Of a run of an earlier version, whose folders hold every picture and superseded files."""
    step = ledgers.origin if folder == "images" else "encode"
    if not ledgers.store.is_flat or step not in ledgers.revision.steps:
        return []
    lines = ledgers.store.read_bytes(f"{folder}/shards.txt").decode().split()
    tars = [line for line in lines if line.endswith(".tar")]
    return tars if len(tars) <= _LISTED_SHARDS else [f"{folder}/*.tar"]


def _sources(store: RunStore) -> list[dict[str, str]]:
    return [
        {
            "name": _code(file.name),
            "rows": "" if file.rows is None else f"{file.rows:,}",
            "sha256": _code(file.sha256),
        }
        for file in planned_files(store)
    ]


def _licences(ledgers: Ledgers) -> tuple[str | None, list[tuple[str, int]]]:
    column = next((name for name in ledgers.schema.names if _LICENCE.fullmatch(name)), None)
    if column is None:
        return None, []
    counts: Counter[str] = Counter()
    for table in ledgers.read([column, "kept"]):
        kept = table.filter(table["kept"])[column].combine_chunks()
        for pair in pc.value_counts(kept).to_pylist():
            counts["(none)" if pair["values"] is None else str(pair["values"])] += pair["counts"]
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = sum(rows for _, rows in found[_SHOWN_LICENCES:])
    return column.removeprefix("source_"), [
        *found[:_SHOWN_LICENCES],
        *([("(others)", more)] if more else []),
    ]


def _shown_step(step: FunnelStep) -> dict[str, str]:
    return {
        "name": step.name,
        "rows_in": f"{step.rows_in:,}",
        "dropped": f"{sum(step.dropped.values()):,}",
        "kept": f"{step.kept:,}",
    }


def _reasons(funnel: Iterable[FunnelStep]) -> list[dict[str, str]]:
    return [
        {"name": name, "step": step.name, "rows": f"{rows:,}"}
        for step in funnel
        for name, rows in sorted(step.dropped.items(), key=lambda item: (-item[1], item[0]))
    ]


def _rules(run: Mapping[str, Any]) -> Iterable[str]:
    options = run.get("steps", {}).get("select", {}).get("options", {}).get("select", {})
    for rule in options.get("rules", ()):
        said = {name: value for name, value in rule.items() if value is not None}
        yield _plain(json.dumps(said, ensure_ascii=False))
    duplicates = options.get("duplicates")
    if isinstance(duplicates, Mapping):
        yield _plain("duplicates: " + json.dumps(duplicates, ensure_ascii=False))


def _indexes(ledgers: Ledgers) -> Iterable[dict[str, str]]:
    for path in (FILES_LIST, *(f"{folder}/index.parquet" for folder in every_folder())):
        try:
            content = ledgers.store.read_bytes(path)
        except FileNotFoundError:
            continue
        table = read_parquet(io.BytesIO(content), columns=["num_rows"])
        yield {
            "path": ledgers.store.place(path),
            "files": f"{table.num_rows:,}",
            "rows": f"{sum(table['num_rows'].to_pylist()):,}",
            "sha256": _code(hashlib.sha256(content).hexdigest()),
        }


def _code(text: str) -> str:
    return f"`{_plain(text)}`" if text else ""


def _plain(text: str) -> str:
    """Text that ends neither the code that it stands in, nor its line, nor a table's cell."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return re.sub(r"\s+", " ", text).replace("`", "'").replace("|", "¦")
