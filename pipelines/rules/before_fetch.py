"""Rules before the fetch: `download.rules`, by what is known of a row when its URL is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipelines.config import ConfigError
from pipelines.redact import redact_text_column
from pipelines.rows.caption_facts import CAPTION_FACTS, CaptionFactsConfig, measure_captions
from pipelines.rows.ledger import DOWNLOAD_FACTS, LEDGER
from pipelines.rules.block_lists import BlockList
from pipelines.rules.block_rules import Blocked
from pipelines.rules.columns import VERDICT_COLUMNS
from pipelines.rules.old_keys import Keyed, RulesConfig, as_old_rules
from pipelines.rules.rule import ReadyRule, RowRule, Rule, RuleOutcome
from pipelines.rules.sql_rule import SqlCondition

KNOWN: Final = ("row", "key", "url", "caption", *CAPTION_FACTS)
"""What is known before the fetch, beside the list's own columns (`source_<name>`)."""

_TOLD = f"known there: {', '.join(KNOWN)} and source_<column of the list>"


def known_before_fetch(rule: Rule) -> Rule:
    """The rule; raises `ValueError` where it needs what only select knows."""
    for part in rule.parts():
        if not isinstance(part, RowRule):
            keys = ", ".join(sorted(part.model_fields_set - {"name"}))
            raise ValueError(
                f"{keys} compares the rows of the whole run, which is not known before the fetch; "
                f"select.rules takes it ({_TOLD})"
            )
        try:
            needed = part.needed
        except ConfigError as error:  # SQL that is none
            raise ValueError(str(error).lstrip(".")) from None
        names = [(name, name.lower()) for name in needed]
        unknown = [n for n, low in names if low not in KNOWN and not low.startswith("source_")]
        if unknown:
            later = {name.lower() for name in unknown} <= {*LEDGER.names} - {*VERDICT_COLUMNS}
            raise ValueError(
                f"a rule by {', '.join(unknown)}, which is not known before the fetch; "
                + ("select.rules takes it; " if later else "")
                + _TOLD
            )
    return rule


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What rules say of rows, one element a row: null where none is broken.

    Attributes:
        facts: Facts of captions that were measured for it, by name.
    """

    reason: pa.Array
    rule: pa.Array
    error_message: pa.Array
    facts: Mapping[str, pa.Array]


@dataclass(frozen=True, kw_only=True)
class BeforeFetch:
    """The rules before the fetch. Holds no list, so that it pickles.

    Attributes:
        rules: In order, each with the key that it is configured by.
        storage_options: For the files that they name.
        old: What the old key `rules` says, where it or `block` is used.
    """

    rules: Keyed = ()
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    old: RulesConfig | None = None

    @cached_property
    def ready(self) -> list[ReadyRule]:
        """The rules with their lists, read once per process; raises `ConfigError`."""
        return [
            part.ready(where=where, storage_options=self.storage_options)
            for where, rule in self.rules
            for part in rule.parts()
            if isinstance(part, RowRule)
        ]

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: self.__dict__[one.name] for one in fields(self)}

    def identity(self) -> dict[str, Any]:
        """What decides verdicts, as plain JSON; what the old keys could say, in their form."""
        old = self.old or as_old_rules([rule for _, rule in self.rules])
        if old is not None:
            digests = [block.digest for block in self._blocks]
            return {"rules": old.model_dump(mode="json"), "block": "".join(digests)}
        options = {"storage_options": self.storage_options}
        rules = [
            {**rule.identity(), "files": rule.files_digest(where=where, **options)}
            for where, rule in self.rules
        ]
        return {"rules": rules, "block": ""}

    def check(self, source_columns: Mapping[str, str], caption_facts: CaptionFactsConfig) -> None:
        """Refuse what the list's columns do not allow.

        Args:
            source_columns: The run's `source_` columns and their types, as the plan names them.
            caption_facts: Which facts are measured.

        Raises:
            ConfigError: names each such rule, what was found and what is allowed.
        """
        types = {name: DOWNLOAD_FACTS.field(name).type for name in KNOWN}
        types |= {name: pa.type_for_alias(kind) for name, kind in source_columns.items()}
        faults = []
        for rule in self.ready:
            try:
                rule.check(types)
            except ConfigError as error:
                faults.append(f"  - {error}")
        off = sorted(name for name in self._facts if not getattr(caption_facts, name))
        faults += [f"  - caption_facts.{name} is off, and a rule goes by it" for name in off]
        if faults:
            heading = f"rules before the fetch: {len(faults)} problem(s)"
            raise ConfigError("\n".join([heading, *faults]))

    def judge(self, rows: pa.Table) -> Settled:
        """Judge the rows that have no reason; the first broken rule is the verdict.

        Args:
            rows: Columns key, url, caption (as the list has them), reason and `source_*`.
        """
        facts = self._measure(rows)
        left = _with_facts(rows, facts, {"row", *self._columns})
        places = np.flatnonzero(np.asarray(rows["reason"].is_null()))
        left = left.take(pa.array(places))
        codes = np.zeros(rows.num_rows, np.int64)
        outcomes: list[RuleOutcome] = []
        messages: list[str | None] = [None] * rows.num_rows
        for rule in self.ready:
            breaks = rule.broken(left)
            broken = breaks > 0
            codes[places[broken]] = len(outcomes) + breaks[broken]
            outcomes += rule.outcomes
            if isinstance(rule, SqlCondition):
                for place, message in zip(places[breaks == 2], rule.errors, strict=True):
                    messages[place] = message
            left, places = left.filter(pa.array(~broken)), places[~broken]
        at = pa.array(codes - 1, mask=codes == 0)
        return Settled(
            reason=pa.array([one.reason for one in outcomes], pa.string()).take(at),
            rule=pa.array([one.rule for one in outcomes], pa.string()).take(at),
            error_message=pa.array(messages, pa.string()),
            facts=facts,
        )

    def url_reason(self, url: str) -> str | None:
        """Why a URL that redirects led to is blocked; None where it is not."""
        return next((r for r in (block.url_reason(url) for block in self._blocks) if r), None)

    def sha256_blocked(self, digest: str) -> bool:
        """Whether content of this hex sha256 is refused."""
        return any(block.sha256_blocked(digest) for block in self._blocks)

    @property
    def _blocks(self) -> list[BlockList]:
        return [rule.blocks for rule in self.ready if isinstance(rule, Blocked)]

    @property
    def _columns(self) -> set[str]:
        return {name.lower() for rule in self.ready for name in rule.columns}

    @property
    def _facts(self) -> set[str]:
        return self._columns & set(CAPTION_FACTS)

    def _measure(self, rows: pa.Table) -> dict[str, pa.Array]:
        wanted = self._facts
        if not wanted:
            return {}
        on = CaptionFactsConfig(**{name: name in wanted for name in CAPTION_FACTS})
        measured = measure_captions(redact_text_column(rows["caption"]), on)
        return {name: measured[name] for name in wanted}


def _with_facts(rows: pa.Table, facts: Mapping[str, pa.Array], wanted: set[str]) -> pa.Table:
    """The wanted columns of the rows, with what was measured beside them."""
    table = rows.select([name for name in rows.column_names if name.lower() in wanted])
    for name, column in facts.items():
        table = table.append_column(name, column)
    return table
