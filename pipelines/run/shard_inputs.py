"""What a shard of a step with models was made from: another revision with the same reuses it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.tables import texts_of

_NOT_AS_JSON: Final = "facts-"
"""How the inputs of publish begin; those of earlier versions were digests of JSON."""
_OF_THE_VERDICT: Final = frozenset({"shard_id", "row", "kept", "reason", "rule", "duplicate_of"})


def score_inputs(images: Committed, *, options: str, shard: int) -> str | None:
    """Digest of the options and the images; None where these are not committed or given up.

    Args:
        images: The step that made them.
        options: `StepIdentity.options_digest` of the score step.
        shard: Which.
    """
    manifest = images.find(shard)
    if manifest is None or manifest.quarantined is not None:
        return None
    return _digest([options, _sha256(manifest, "images")])


def encode_inputs(
    images: Committed,
    verdicts: Committed,
    *,
    options: str,
    shards: Iterable[int],
    read: Mapping[int, Mapping[str, str | None]] | None = None,
) -> str | None:
    """Digest of the options, the images, the keys that select kept of them and their captions from
    elsewhere; None where one of the shards is not committed.

    Args:
        images: The step that made them.
        verdicts: The select step.
        options: `StepIdentity.options_digest` of the encode step.
        shards: Those of the images, in order.
        read: The kept rows of shards whose ledger was read already.
    """
    parts: list[object] = [options]
    for shard in shards:
        manifest, judged = images.find(shard), verdicts.find(shard)
        if manifest is None or judged is None:
            return None
        if judged.gives is not None:
            rows = judged.gives["rows"]
        else:  # of a run made before it was told
            kept = (read or {}).get(shard)
            rows = _rows_digest(kept_rows(verdicts, shard) if kept is None else kept)
        parts.append([shard, _sha256(manifest, "images") if judged.kept else None, rows])
    return _digest(parts)


def publish_inputs(images: Committed, verdicts: Committed, *, shard: int) -> str | None:
    """Digest of the images and of what select says of the kept ones; None where one of the two is
    not committed.

    Args:
        images: The step that made them.
        verdicts: The select step.
        shard: Which.
    """
    manifest, judged = images.find(shard), verdicts.find(shard)
    if manifest is None or judged is None:
        return None
    told = judged.gives or {"facts": _facts_digest(kept_facts(verdicts, shard))}
    images_sha256 = _sha256(manifest, "images") if judged.kept else None
    return _NOT_AS_JSON + _digest([images_sha256, told["facts"]])


def is_of_the_same(manifest: Manifest, inputs: str, images: Committed, verdicts: Committed) -> bool:
    """Whether a shard of publish was made from `inputs`, also by what earlier versions told."""
    if manifest.inputs is None or manifest.inputs.startswith(_NOT_AS_JSON):
        return manifest.inputs == inputs
    rows = kept_facts(verdicts, manifest.shard_id)
    told = hashlib.sha256()
    for column in rows.columns:
        told.update(json.dumps(column.to_pylist()).encode())
    shown = _sha256(images.manifest(manifest.shard_id), "images") if rows.num_rows else None
    return manifest.inputs == _digest([shown, rows.column_names, told.hexdigest()])


def gives_of(ledger: pa.Table) -> dict[str, str]:
    """What later steps are made from of a shard's ledger, for its manifest: so that publish and
    encode need not read it to know what they have made of the same before."""
    kept = ledger.filter(ledger["kept"])
    return {
        "rows": _rows_digest(_captions_of(kept)),
        "facts": _facts_digest(_facts_of(kept)),
        "captions": json.dumps(asdict(count_captions(ledger, kept))),
    }


@dataclass(frozen=True, kw_only=True)
class CaptionCounts:
    """Of a shard of the ledger.

    Attributes:
        counted: Rows with a counted caption.
        kept: Of these the kept ones.
        cut: Of the kept ones those whose caption is longer than the text encoder reads.
        longest: Tokens of the longest kept one.
    """

    counted: int
    kept: int
    cut: int
    longest: int


def count_captions(ledger: pa.Table, kept: pa.Table | None = None) -> CaptionCounts:
    """By the ledger's columns of tokens; a ledger of before they were counted has none.

    Args:
        kept: Its kept rows, where they are at hand.
    """
    if "caption_tokens" not in ledger.column_names:
        return CaptionCounts(counted=0, kept=0, cut=0, longest=0)
    rows = ledger.filter(ledger["kept"]) if kept is None else kept
    return CaptionCounts(
        counted=ledger.num_rows - ledger["caption_tokens"].null_count,
        kept=rows.num_rows - rows["caption_tokens"].null_count,
        cut=pc.sum(rows["caption_is_cut"]).as_py() or 0,
        longest=pc.max(rows["caption_tokens"]).as_py() or 0,
    )


def told_captions(gives: Mapping[str, str]) -> CaptionCounts:
    """What `gives_of` told."""
    return CaptionCounts(**json.loads(gives["captions"]))


def _rows_digest(kept: Mapping[str, str | None]) -> str:
    return _digest([*kept.items()] if any(kept.values()) else [*kept])


def _facts_digest(facts: pa.Table) -> str:
    """Over names and values, whatever version of Arrow holds them."""
    told = hashlib.sha256()
    for name in facts.column_names:
        column = pa.concat_arrays(facts[name].chunks) if facts.num_rows else pa.array([], pa.null())
        told.update(f"{_named(facts.schema.field(name))}, {len(column)}]".encode())
        told.update(np.asarray(column.is_valid()).tobytes())
        told.update(_values(column.drop_null()))
    return told.hexdigest()[:16]


@lru_cache(maxsize=256)
def _named(field: pa.Field) -> str:
    return json.dumps([field.name, str(field.type)])[:-1]


def _values(column: pa.Array) -> bytes:
    kind = column.type
    if pa.types.is_string(kind):
        return np.asarray(pc.binary_length(column)).tobytes() + texts_of(column)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(column).tobytes()
    return json.dumps(column.to_pylist(), default=str).encode()


def kept_facts(verdicts: Committed, shard_id: int) -> pa.Table:
    """What the ledger says of a shard's kept rows that their pictures are shown with: every column
    but the verdict and the list's own."""
    table = verdicts.table(shard_id, "ledger")
    if table is None:
        return pa.table({"key": pa.array([], pa.string())})
    return _facts_of(table.filter(table["kept"]))


def _facts_of(kept: pa.Table) -> pa.Table:
    names = [
        name
        for name in kept.column_names
        if name not in _OF_THE_VERDICT and not name.startswith("source_")
    ]
    return kept.select(names)


def grouped_shards(shard_id: int, *, group: int, num_shards: int) -> range:
    """Which of download's `num_shards` lie in a latent shard of `group` of them."""
    return range(shard_id * group, min((shard_id + 1) * group, num_shards))


def kept_keys(verdicts: Committed, shard_id: int) -> list[str]:
    """Keys of a shard's kept rows, in order."""
    return [*kept_rows(verdicts, shard_id)]


def kept_rows(verdicts: Committed, shard_id: int) -> dict[str, str | None]:
    """Keys of a shard's kept rows, in order, and the caption that each has from elsewhere."""
    table = verdicts.table(shard_id, "ledger", columns=["key", "kept", "recaption"])
    return {} if table is None else kept_captions(table)


def kept_captions(table: pa.Table) -> dict[str, str | None]:
    """The same of a ledger that is in memory."""
    return _captions_of(table.filter(table["kept"]))


def _captions_of(kept: pa.Table) -> dict[str, str | None]:
    keys = kept["key"].to_pylist()
    if "recaption" not in kept.column_names:
        return dict.fromkeys(keys)
    return dict(zip(keys, kept["recaption"].to_pylist(), strict=True))


def _sha256(manifest: Manifest, folder: str) -> str | None:
    entry = manifest.file(folder)
    return None if entry is None else entry.sha256


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
