"""What a configuration asks for against what it makes, and models against what is honoured."""

from collections.abc import Container, Mapping
from typing import Any

import pyarrow as pa

from pipelines.config import ConfigError
from pipelines.rows.claims import CLAIMED_SCORES
from pipelines.rows.ledger import DOWNLOAD_FACTS, RECAPTION
from pipelines.rules.columns import is_numeric
from pipelines.steps.encode import EncodeConfig
from pipelines.steps.score import ScoreConfig, all_score_columns
from pipelines.steps.select import SelectConfig, check_select
from sd_core.model.autoencoder_loading import autoencoder_settings
from sd_core.model.clip import load_clip_tokenizer
from sd_core.model.text_encoder import text_encoder_settings


def check_scores_are_made(select: SelectConfig, score: ScoreConfig | None) -> None:
    """Raise `ValueError` where select goes by a score that nothing makes.

    Scores that the list may bring along are left to `check_claims`, which knows its columns.
    """
    made = made_scores(score)
    known = all_score_columns().keys() - CLAIMED_SCORES.keys()
    for where, name in select.columns_needed():
        if name in known and name not in made:
            raise ValueError(
                f"select.{where}: nothing in `score` makes {name}; configure it, or use "
                f"source_{name} where the list has it"
            )
    try:
        select.check_thresholds(name for name, kind in made.items() if is_numeric(kind))
    except ValueError as error:
        raise ValueError(f"select.{error}") from None
    if select.copies.needs_embeddings and not (score is not None and score.embeddings):
        raise ValueError("select.duplicates: set score.embeddings: true to compare embeddings")


def made_scores(score: ScoreConfig | None) -> dict[str, pa.DataType]:
    """The ledger's columns that the configured scorers make, and their types."""
    return {} if score is None else {column.name: column.type for column in score.columns()}


def further_columns(score: ScoreConfig | None, *, has_captions: bool) -> tuple[pa.Field, ...]:
    """The ledger's columns that not every run has."""
    scores = () if score is None else score.further_columns()
    return (*scores, RECAPTION) if has_captions else scores


def check_models(score: ScoreConfig | None, encode: EncodeConfig | None = None) -> None:
    """Hold what local models' files say against what is honoured, before a worker loads one.

    Raises:
        WeightsError: naming the file, the key and what is allowed.
    """
    if score is not None and score.clip is not None and score.clip.is_folder:
        load_clip_tokenizer(score.clip)
    if score is not None:
        score.check_weights("score")
    if encode is not None:
        autoencoder_settings(encode.autoencoder)
        text_encoder_settings(encode.text_encoder)


def check_claims(
    select: SelectConfig, score: ScoreConfig | None, source_columns: Container[str]
) -> None:
    """Raise `ConfigError` where select goes by a score that neither the list nor a head has."""
    made = made_scores(score)
    for where, name in select.columns_needed():
        source = CLAIMED_SCORES.get(name)
        if source is not None and source not in source_columns and name not in made:
            raise ConfigError(
                f"select.{where}: the list has no column {source.removeprefix('source_')}, and "
                f"nothing in `score` makes {name}"
            )


def check_cut(
    select: SelectConfig,
    score: ScoreConfig | None,
    columns: Mapping[str, str],
    *,
    facts: pa.Schema = DOWNLOAD_FACTS,
    storage_options: Mapping[str, Any],
    has_tokens: bool = True,
    has_captions: bool = False,
) -> None:
    """Raise `ConfigError` where select does not go with what the list and the scorers give.

    Args:
        columns: The plan's `source_` columns and their types.
        facts: Schema of the facts of the step that makes the run's images.
        has_tokens: Whether captions are counted.
        has_captions: Whether there are captions from elsewhere.
    """
    check_claims(select, score, columns)
    check_select(
        select,
        columns,
        facts=facts,
        storage_options=storage_options,
        further=further_columns(score, has_captions=has_captions),
        has_tokens=has_tokens,
    )
