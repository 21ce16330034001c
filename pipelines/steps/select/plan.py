"""From the configuration to rules that can be run, with their lists read."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ConfigError
from pipelines.rows.ledger import DOWNLOAD_FACTS, SCORES, TOKEN_FIELDS
from pipelines.rules.columns import array_of, check_known, check_numeric, usable_columns
from pipelines.rules.ranked_rules import BestOfRule, DomainCapRule
from pipelines.rules.rule import Breaks, OpenOptions, ReadyRule, RowRule, Rule, RuleOutcome
from pipelines.steps.select.config import SelectConfig
from pipelines.steps.select.ranking import DOMAIN, Ranked
from pipelines.steps.select.references import References


class FiniteScores:
    """No score is NaN or infinite, whatever the configuration says."""

    def __init__(self, further: Iterable[pa.Field] = ()) -> None:
        floating = (f.name for f in further if pa.types.is_floating(f.type))
        self.columns = (*SCORES, *floating)
        self.outcomes = tuple(RuleOutcome(reason="score_not_finite", rule=n) for n in self.columns)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """The scores are columns of every run."""

    def broken(self, rows: pa.Table) -> Breaks:
        breaks = np.zeros(rows.num_rows, np.int16)
        for number, name in reversed(list(enumerate(self.columns, start=1))):
            finite = pc.fill_null(pc.is_finite(array_of(rows, name)), True)
            breaks[~np.asarray(finite)] = number
        return breaks


class CacheSizes:
    """The latent cache holds images of these sizes, and encode is given no others."""

    columns = ("width", "height")

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self._sizes = sizes
        text = f"the latent cache holds {', '.join(f'{w}x{h}' for w, h in sizes)} px"
        self.outcomes = (RuleOutcome(reason="image_of_another_size", rule=text),)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Every run has the sizes of its images."""

    def broken(self, rows: pa.Table) -> Breaks:
        fits = np.zeros(rows.num_rows, bool)
        for size in self._sizes:
            same = [
                pc.equal(array_of(rows, name), side)
                for name, side in zip(self.columns, size, strict=True)
            ]
            fits |= np.asarray(pc.fill_null(pc.and_(*same), False), bool)
        return (~fits).astype(np.int16)


def plan_rules(
    config: SelectConfig,
    storage_options: OpenOptions,
    *,
    cache_sizes: Sequence[tuple[int, int]] = (),
    further: Sequence[pa.Field] = (),
) -> list[ReadyRule | Ranked]:
    """Every rule in order; the finiteness of scores first, then the size that encode takes.

    Args:
        cache_sizes: Width and height of the images in the latent cache, where one is made.
        further: The scores' columns beside those of every run.

    Raises:
        ConfigError: a condition is not one, or a list cannot be read.
    """
    rules: list[ReadyRule | Ranked] = [FiniteScores(further)]
    if cache_sizes:
        rules.append(CacheSizes(cache_sizes))
    for key, rule in config.ordered_rules():
        rules.append(_plan_rule(rule, f"select.{key}", storage_options))
    return rules


def check_select(
    config: SelectConfig,
    source_columns: Mapping[str, str],
    *,
    facts: pa.Schema = DOWNLOAD_FACTS,
    storage_options: OpenOptions | None = None,
    has_tokens: bool = True,
    further: Sequence[pa.Field] = (),
) -> None:
    """Refuse, before any worker starts, what the run's columns or the named files do not allow.

    Args:
        config: What to check.
        source_columns: The run's `source_` columns and their types, as the plan names them.
        facts: Schema of the facts of the step that makes the run's images.
        storage_options: For block lists and reference sets.
        has_tokens: Whether the run has a tokenizer that captions are counted with.
        further: The scores' columns beside those of every run.

    Raises:
        ConfigError: naming the rule, what was found and what is allowed.
    """
    sources = {name: pa.type_for_alias(kind) for name, kind in source_columns.items()}
    types = usable_columns((*facts, *further), sources)
    rules = plan_rules(config, storage_options or {})
    if not has_tokens:
        _refuse_tokens([name for rule in rules for name in rule.columns], config.copies.keep)
    for rule in rules:
        rule.check(types)
    if config.copies.keep is not None:
        where = "select.duplicates.keep"
        check_known(config.copies.keep, types, where=where)
        check_numeric(types[config.copies.keep], config.copies.keep, where=where)
    References(config.copies.references, storage_options or {}).check()


def _refuse_tokens(columns: Sequence[str], keep: str | None) -> None:
    counted = {field.name for field in TOKEN_FIELDS}
    for name in (*columns, keep or ""):
        if name.lower() in counted:
            raise ConfigError(
                f"select: a rule goes by {name}, which is counted with encode's tokenizer; "
                "configure `encode`, or go by caption_words"
            )


def input_digests(config: SelectConfig, storage_options: OpenOptions) -> dict[str, str]:
    """What the files that the configuration names hold, by its keys: part of the identity."""
    digests = {}
    for key, rule in config.ordered_rules():
        digest = rule.files_digest(where=f"select.{key}", storage_options=storage_options)
        if digest is not None:
            digests[key] = digest
    references = References(config.copies.references, storage_options)
    return digests | references.digests()


def _plan_rule(rule: Rule, where: str, options: OpenOptions) -> ReadyRule | Ranked:
    if isinstance(rule, RowRule):
        return rule.ready(where=where, storage_options=options)
    assert isinstance(rule, BestOfRule | DomainCapRule)
    return _plan_ranked(rule, where)


def _plan_ranked(rule: BestOfRule | DomainCapRule, where: str) -> Ranked:
    if isinstance(rule, DomainCapRule):
        cap = rule.domain_cap
        text = f"at most {cap.num_images} of a domain" + (f" by {cap.by}" if cap.by else "")
        return Ranked(
            by=cap.by,
            per=DOMAIN,
            num_images=cap.num_images,
            fraction=None,
            prefer=cap.prefer,
            outcome=RuleOutcome(reason="domain_over_cap", rule=rule.name or text),
            where=f"{where}.domain_cap",
        )
    best = rule.best_of
    size = best.num_images if best.num_images is not None else f"{best.fraction:g}"
    text = f"best {size}" + (f" of {best.per}" if best.per else "") + f" by {best.by}"
    return Ranked(
        by=best.by,
        per=best.per,
        num_images=best.num_images,
        fraction=best.fraction,
        prefer=best.prefer,
        outcome=RuleOutcome(reason="ranked_below_best", rule=rule.name or text),
        where=f"{where}.best_of" if where != "select.best_of" else where,
    )
