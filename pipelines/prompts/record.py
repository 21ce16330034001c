"""What a plan of prompts is, and how a run keeps it: shards that are only ever added to."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ConfigError
from pipelines.plan import PlanError
from pipelines.plan.inputs import file_sha256, file_token
from pipelines.plan.record import PLAN_PATH, put_table, read_planned
from pipelines.rows.ledger import SETTING_FIELDS
from pipelines.run.manifest import ShardError
from pipelines.run.option_changes import describe_changes
from pipelines.run.store import RunStore
from pipelines.run.tables import table_bytes
from pipelines.sources import Source
from pipelines.sources.columns import SourceColumn
from pipelines.sources.rows import EARLIER_READER
from sd_core.sealed import seal, sha256_of_bytes, unseal

PROMPT_PLAN_VERSION = 1
KIND = "prompts"

PROMPT_SHARD_FIELDS = pa.schema(
    [
        pa.field("shard_id", pa.int32(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_prompts", pa.int32(), nullable=False),
        pa.field("num_rows", pa.int32(), nullable=False),
    ]
)
# The list's own columns follow as `source_<name>`; a setting that a row does not have is null.
PROMPT_FIELDS = pa.schema(
    [
        pa.field("prompt_key", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("image_indices", pa.list_(pa.int32()), nullable=False),
        *SETTING_FIELDS,
        pa.field("reason", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("content", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """A file of the list as it was when last read; no secrets."""

    name: str
    uri: str
    sha256: str
    token: str
    reader: int = EARLIER_READER
    """Which version of the readers told its rows apart; plans of before it say nothing."""


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """The images of a run: one row for each, and one for each prompt that is refused.

    Attributes:
        num_prompts: Rows of the list that the shards hold, refused ones among them.
        num_rows: Rows of the run.
        files: The list's files when they were last read.
        columns: The list's pass-through columns.
        shards: `PROMPT_SHARD_FIELDS`, one row a shard, in order.
        reading: Options of `prompts` that say what the columns mean; null in runs of earlier
            versions.
        limit: After how many rows of the list the plan ends, where it goes on (`--limit`).
    """

    num_prompts: int
    num_rows: int
    files: tuple[PromptFile, ...]
    columns: tuple[SourceColumn, ...]
    shards_path: str
    shards: pa.Table = field(repr=False, compare=False)
    reading: Mapping[str, Any] | None = None
    limit: int | None = None

    @property
    def num_shards(self) -> int:
        """How many shards there are; their ids are 0 to `num_shards` - 1."""
        return int(self.shards.num_rows)

    def num_rows_of(self, shard_id: int) -> int:
        return int(self.shards["num_rows"][shard_id].as_py())


def changed_files(plan: PromptPlan, source: Source) -> list[str]:
    """One line for each file of the list that is not as the plan last read it."""
    known = {file.name: file for file in plan.files}
    found = {file.name: file for file in source.files}
    lines = [f"{known[name].uri}: gone" for name in known.keys() - found.keys()]
    lines += [f"{found[name].uri}: new" for name in found.keys() - known.keys()]
    for name in known.keys() & found.keys():
        token = file_token(found[name])
        same = bool(token) and token == known[name].token
        if not same and file_sha256(found[name]) != known[name].sha256:
            lines.append(f"{found[name].uri}: changed")
    return sorted(lines)


def changed_without_growth(plan: PromptPlan, changed: Iterable[str]) -> PlanError:
    """What refuses a list that has changed."""
    growth = "" if plan.limit else "Give --grow to make what is new in it, "
    return PlanError(
        "the list of prompts has changed since the run was planned:\n"
        + "\n".join(f"  - {line}" for line in changed)
        + f"\n{growth}{'put' if growth else 'Put'} the files back as they were, or give another "
        "`output`."
    )


def is_prompt_plan(store: RunStore) -> bool:
    """Whether the run's plan is one of prompts; False where there is none."""
    try:
        return bool(unseal(store.read_bytes(PLAN_PATH)).get("kind") == KIND)
    except (FileNotFoundError, ValueError, AttributeError):
        return False


def store_prompt_plan(plan: PromptPlan, store: RunStore) -> None:
    """Store the shards' table under a name of its own, then `plan.json`, which makes it current."""
    digest = put_table(store, plan.shards_path, plan.shards)
    tree = {
        "schema_version": PROMPT_PLAN_VERSION,
        "kind": KIND,
        "num_prompts": plan.num_prompts,
        "num_rows": plan.num_rows,
        "num_shards": plan.num_shards,
        "shards_path": plan.shards_path,
        "shards_sha256": digest,
        "columns": [asdict(column) for column in plan.columns],
        "files": [asdict(file) for file in plan.files],
        "reading": plan.reading,
        **({} if plan.limit is None else {"limit": plan.limit}),
    }
    store.replace(PLAN_PATH, seal(json.dumps(tree, indent=1, ensure_ascii=False)))


def prompts_file(prompts: pa.Table, shard_id: int) -> tuple[str, bytes, str]:
    """A shard's prompts: the path, which follows from the content, the content, its sha256."""
    content = table_bytes(prompts)
    digest = sha256_of_bytes(content)
    return f"plan/prompts/{shard_id:06d}-{digest[:16]}.parquet", content, digest


def shards_path_of(shards: pa.Table) -> str:
    """Where a plan's table of shards lies: it is named by their digests."""
    digest = sha256_of_bytes("".join(shards["sha256"].to_pylist()).encode())
    return f"plan/shards-{digest[:16]}.parquet"


def load_prompt_plan(store: RunStore) -> PromptPlan:
    """The run's stored plan; raises `PlanError` where there is none or it is damaged."""
    try:
        tree = unseal(store.read_bytes(PLAN_PATH))
        if (tree.pop("schema_version"), tree.pop("kind", None)) != (PROMPT_PLAN_VERSION, KIND):
            raise ValueError("not of prompts, or written by another version of this program")
        shards = read_planned(store, tree["shards_path"], tree.pop("shards_sha256", None))
        if shards.num_rows != tree.pop("num_shards") or shards.schema != PROMPT_SHARD_FIELDS:
            raise ValueError(f"{tree['shards_path']} does not belong to it")
        tree["files"] = tuple(PromptFile(**file) for file in tree["files"])
        tree["columns"] = tuple(SourceColumn(**column) for column in tree["columns"])
        return PromptPlan(**tree, shards=shards)
    except FileNotFoundError as error:
        raise PlanError(f"{store.root}: no plan yet: a file of plan/ is missing") from error
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise PlanError(f"{store.told(PLAN_PATH)}: not a plan: {error}") from error


def read_prompts(plan: PromptPlan, store: RunStore, shard_id: int) -> pa.Table:
    """A shard's prompts: `PROMPT_FIELDS` and the `source_` columns.

    Raises:
        ShardError: the shard is missing or damaged.
    """
    path, digest = (plan.shards[name][shard_id].as_py() for name in ("path", "sha256"))
    try:
        return read_planned(store, path, digest)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardError(f"{path}: missing or damaged: {error}") from error


def keys_in_two_shards(plan: PromptPlan, store: RunStore) -> list[str]:
    """Keys whose images lie in more than one shard, sorted; reads every shard."""
    seen: set[str] = set()
    twice: set[str] = set()
    for shard_id in range(plan.num_shards):
        prompts = read_prompts(plan, store, shard_id)
        keys = set(prompts.filter(prompts["reason"].is_null())["prompt_key"].to_pylist())
        twice |= seen & keys
        seen |= keys
    return sorted(twice)


def image_content(content: str, index: int) -> str:
    """Of one image of a prompt: what its text, its settings and its number make."""
    return f"{content}-{index}"


def expand_rows(prompts: pa.Table, *, shard_id: int) -> pa.Table:
    """The rows of the run that a shard's prompts come to, one for each image.

    Returns:
        The prompts' columns, each repeated for its images, with `shard_id`, `row`, `key` (which
        is `{prompt_key}-{i}`) and `image_index`.
    """
    indices = prompts["image_indices"].combine_chunks()
    image_index = pc.list_flatten(indices)
    rows = prompts.drop_columns(["image_indices"]).take(pc.list_parent_indices(indices))
    names = pc.binary_join_element_wise(rows["prompt_key"], image_index.cast(pa.string()), "-")
    count = rows.num_rows
    added = {
        "shard_id": pa.array(np.full(count, shard_id, np.int32)),
        "row": pa.array(np.arange(count, dtype=np.int32)),
        "key": names,
        "image_index": image_index,
    }
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return rows.combine_chunks()


def check_reading(plan: PromptPlan, now: Mapping[str, Any], store: RunStore) -> None:
    """Raise `ConfigError` where the list would be read in another way than the run has read it."""
    if plan.reading is not None and (lines := describe_changes(plan.reading, now)):
        raise ConfigError(
            f"{store.root}: the run has read its list of prompts in another way:\n"
            + "\n".join(f"  - prompts.{line}" for line in lines)
            + "\nGive the same options, or another `output`."
        )
