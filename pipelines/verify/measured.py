"""What the ledger says was measured, against what a check can measure again without a picture."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.caption_facts import LANGUAGES, CaptionFactsConfig, measure_captions
from pipelines.rows.claims import CLAIMED_SCORES, claimed_or_scored
from pipelines.rows.ledger import trained_captions
from pipelines.verify.columns import check_rows, check_same, is_not_in, is_null
from pipelines.verify.fault import Fault

_HIGHEST = {"sharpness": float(np.finfo(np.float32).max), "entropy": 8.0, "contrast": 127.5}


def check_measured(facts: pa.Table, *, where: str) -> Iterator[Fault]:
    """Facts of pixels are within their bounds, those of captions what the captions give."""
    there = set(facts.column_names)  # of a run of its own time
    for name, highest in _HIGHEST.items():
        if name not in there:
            continue
        values = np.asarray(pc.fill_null(facts[name], 0.0))
        wrong = ~((values >= 0) & (values <= highest))
        yield from check_rows(wrong, where=where, found=name, expected=f"0 to {highest:g}")
    captions = pa.concat_arrays([*facts["caption"].chunks, pa.array([], pa.string())])
    measured = measure_captions(captions, CaptionFactsConfig(caption_language=False))
    for name in sorted({"caption_chars", "caption_words"} & there):
        differs = pc.fill_null(pc.not_equal(facts[name], measured[name]), False)
        yield from check_rows(
            np.asarray(differs, bool),
            where=where,
            found=f"{name} against caption",
            expected="what the caption has, or null where it was not asked for",
        )
    if "caption_language" not in there:
        return
    yield from check_rows(
        ~is_null(facts["caption_language"]) & is_not_in(facts["caption_language"], LANGUAGES),
        where=where,
        found="caption_language",
        expected=f"one of {', '.join(LANGUAGES)}, or null",
    )


def check_tokens(ledger: pa.Table, *, max_tokens: int | None, where: str) -> Iterator[Fault]:
    """Captions are counted where there is a tokenizer, and cut where they are longer than it.

    Args:
        max_tokens: What the text encoder reads of a caption; None: nothing is counted.
    """
    tokens, is_cut = ledger["caption_tokens"], ledger["caption_is_cut"]
    wanted = (
        np.zeros(ledger.num_rows, np.bool_)
        if max_tokens is None
        else ~is_null(trained_captions(ledger))
    )
    yield from check_rows(
        (~is_null(tokens) != wanted) | (~is_null(is_cut) != wanted),
        where=where,
        found="caption_tokens and caption_is_cut against caption",
        expected="none: nothing is encoded" if max_tokens is None else "both, for every caption",
    )
    counts = np.asarray(pc.fill_null(tokens, 0))
    cut = np.asarray(pc.fill_null(is_cut, False), bool)
    yield from check_rows(
        (counts < 0) | (cut != (counts > (max_tokens or 0))),
        where=where,
        found="caption_is_cut against caption_tokens",
        expected=f"true above {max_tokens}",
    )


def check_claimed(ledger: pa.Table, scores: pa.Table | None, *, where: str) -> Iterator[Fault]:
    """Scores that a list can bring are its claim in every row, else what the head made."""
    sources = [name for name in CLAIMED_SCORES.values() if name in ledger.column_names]
    found = ledger
    if scores is not None and not set(CLAIMED_SCORES) - set(scores.column_names):
        rows = pc.is_in(ledger["row"], value_set=scores["row"].combine_chunks())
        found = ledger.filter(rows)
        if found.num_rows != scores.num_rows:
            return  # said elsewhere
    for name in CLAIMED_SCORES:
        made = pa.nulls(found.num_rows, pa.float32()) if scores is None else scores[name]
        truth = claimed_or_scored(found.select(sources).append_column(name, made), name)
        yield from check_same(
            found,
            pa.table({name: truth}),
            [name],
            where=where,
            origin="the list's claim, else score's facts",
        )
