"""What a shard of a step with models was made from: another revision with the same reuses it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pyarrow as pa

from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest

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
    if judged.gives is not None:
        names, told = judged.gives["names"].split(","), judged.gives["facts"]
    else:  # of a run made before it was told
        facts = kept_facts(verdicts, shard)
        names, told = facts.column_names, _facts_digest(facts)
    return _digest([_sha256(manifest, "images") if judged.kept else None, names, told])


def gives_of(ledger: pa.Table) -> dict[str, str]:
    """What later steps are made from of a shard's ledger, for its manifest: publish and encode then
    need not read it to know whether they have made their shard of the same before."""
    facts = facts_of(ledger)
    return {
        "rows": _rows_digest(rows_of(ledger)),
        "names": ",".join(facts.column_names),
        "facts": _facts_digest(facts),
    }


def _rows_digest(kept: Mapping[str, str | None]) -> str:
    return _digest([*kept.items()] if any(kept.values()) else [*kept])


def _facts_digest(facts: pa.Table) -> str:
    told = hashlib.sha256()
    for column in facts.columns:  # as JSON, which two versions of Arrow write alike
        told.update(json.dumps(column.to_pylist()).encode())
    return told.hexdigest()


def kept_facts(verdicts: Committed, shard_id: int) -> pa.Table:
    """What the ledger says of a shard's kept rows that their pictures are shown with: every column
    but the verdict and the list's own."""
    table = verdicts.table(shard_id, "ledger")
    return pa.table({"key": pa.array([], pa.string())}) if table is None else facts_of(table)


def facts_of(table: pa.Table) -> pa.Table:
    """The same of a ledger that is in memory."""
    names = [
        name
        for name in table.column_names
        if name not in _OF_THE_VERDICT and not name.startswith("source_")
    ]
    return table.filter(table["kept"]).select(names)


def grouped_shards(shard_id: int, *, group: int, num_shards: int) -> range:
    """Which of download's `num_shards` lie in a latent shard of `group` of them."""
    return range(shard_id * group, min((shard_id + 1) * group, num_shards))


def kept_keys(verdicts: Committed, shard_id: int) -> list[str]:
    """Keys of a shard's kept rows, in order."""
    return [*kept_rows(verdicts, shard_id)]


def kept_rows(verdicts: Committed, shard_id: int) -> dict[str, str | None]:
    """Keys of a shard's kept rows, in order, and the caption that each has from elsewhere."""
    table = verdicts.table(shard_id, "ledger", columns=["key", "kept", "recaption"])
    return {} if table is None else rows_of(table)


def rows_of(table: pa.Table) -> dict[str, str | None]:
    """The same of a ledger that is in memory."""
    kept = table.filter(table["kept"])
    keys = kept["key"].to_pylist()
    if "recaption" not in kept.column_names:
        return dict.fromkeys(keys)
    return dict(zip(keys, kept["recaption"].to_pylist(), strict=True))


def _sha256(manifest: Manifest, folder: str) -> str | None:
    entry = manifest.file(folder)
    return None if entry is None else entry.sha256


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
