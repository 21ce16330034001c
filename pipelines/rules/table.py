"""The table of rules: the key by which a rule is known, and its class."""

from typing import Annotated, Final

from pydantic import SerializeAsAny

from pipelines.config import Forms
from pipelines.rules.block_rules import BlockKeysRule, BlockRule, BlockWordsRule
from pipelines.rules.claim_rules import CaptionRule, ClaimedRule
from pipelines.rules.column_rule import ColumnRule
from pipelines.rules.presets import PresetRule
from pipelines.rules.ranked_rules import BestOfRule, DomainCapRule
from pipelines.rules.rule import Rule
from pipelines.rules.sql_rule import SqlRule

RULES: Final[dict[str, type[Rule]]] = {
    "sql": SqlRule,
    "preset": PresetRule,
    "best_of": BestOfRule,
    "domain_cap": DomainCapRule,
    "block": BlockRule,
    "block_keys": BlockKeysRule,
    "block_words": BlockWordsRule,
    "claimed": ClaimedRule,
    "caption": CaptionRule,
    "column": ColumnRule,
}
"""What a rule can be, in `download.rules` and `select.rules` alike; a new one is a line here."""

AnyRule = Annotated[SerializeAsAny[Rule], Forms(RULES, what="a rule", weakest="column")]
"""A rule in a configuration: one of `RULES`. A word rule has a column too, hence `weakest`."""
