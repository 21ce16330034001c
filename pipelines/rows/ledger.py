"""The schema of facts and verdicts, and the closed list of reasons a row can be dropped for."""

from typing import Final, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.image_formats import ImageReason

ROW_FAILED: Final = "row_failed"
"""A library refused this row alone; `error_message` begins with the kind of its error. Given by
score, select, encode and generate, to rows that failed where others went through."""

# Grouped by the step that gives them; the first that applies, in this order, is the row's reason.
PLAN_REASONS: Final = (
    "url_missing",  # the list has no URL in this row
    "row_unreadable",  # the list's own row cannot be parsed
    "cell_too_large",  # its URL or caption has more than `source.max_cell_bytes`
    "duplicate_row",  # the same URL and caption came earlier in plan order
    "key_collision",  # another URL or caption with the same 64-bit key came earlier
    "source_failed",  # the folder we read says that its own download failed
    "member_missing",  # the archive holds no image for this sample
)
PROMPT_REASONS: Final = (
    "prompt_missing",
    "key_invalid",
    "seed_invalid",
    "num_images_invalid",
    "num_inference_steps_invalid",
    "guidance_scale_invalid",
    "size_invalid",
    "sampler_unknown",  # or one that does not go with the model
    "strength_invalid",
    "init_missing",  # the run to start from has no such key
    "mask_invalid",
)
GENERATE_REASONS: Final = ("image_not_finite", ROW_FAILED)
LIST_REASONS: Final = (
    "claimed_size_below_min",
    "claimed_aspect_above_max",
    "claimed_similarity_below_min",
    "claimed_punsafe_above_max",
    "claimed_pwatermark_above_max",
    "caption_too_short",
    "caption_too_long",
    "url_blocked",
    "domain_blocked",
)
FailedFetch = Literal[
    "url_invalid",
    "url_too_long",  # for any server
    "scheme_refused",
    "address_refused",
    "dns_failed",
    "connection_failed",
    "tls_failed",
    "download_timed_out",
    "body_too_large",
    "body_truncated",
    "empty_body",
    "too_many_redirects",
    "redirect_invalid",
    "http_not_found",
    "http_gone",
    "http_forbidden",
    "http_rate_limited",
    "http_client_error",
    "http_server_error",
    "http_malformed",
    "file_missing",  # a path of the list names no file under `source.files_root`
    "opted_out",
]
FETCH_REASONS: Final = (*get_args(FailedFetch), "content_hash_mismatch", "sha256_blocked")
RETRIED_REASONS: Final = frozenset(
    {
        "dns_failed",
        "connection_failed",
        "tls_failed",
        "download_timed_out",
        "body_truncated",
        "empty_body",
        "http_rate_limited",
        "http_server_error",
        "http_malformed",
        "decode_timed_out",
        "decoder_crashed",
    }
)
"""Of FETCH_REASONS and DECODE_REASONS, those that can pass: `--retry` fetches such rows again."""
DECODE_REASONS: Final[tuple[ImageReason, ...]] = get_args(ImageReason)
SCORE_REASONS: Final = (ROW_FAILED,)
SCORES: Final = ("clip_similarity", "aesthetic_v1", "aesthetic_v2", "punsafe", "pwatermark")
# Another row that passed the rules is the same picture; `duplicate_of` has the key of a kept one.
DUPLICATE_REASONS: Final = (
    "duplicate_url",
    "duplicate_bytes",  # the same sha256
    "duplicate_phash",
    "duplicate_embedding",
)
# Of rules on single rows, in `download.rules` and in `select.rules`.
RULE_REASONS: Final = (
    *LIST_REASONS,
    "value_below_min",  # a threshold on any other column
    "value_above_max",
    "value_missing",  # a threshold on a column that is null in this row
    "value_not_allowed",  # a column of text that holds none of the values asked for
    "condition_not_met",  # a condition in SQL, or a rule that is not ours
    "key_blocked",
    "word_blocked",
    ROW_FAILED,  # a condition in SQL cannot be evaluated on it
)
SELECT_REASONS: Final = (
    "score_not_finite",
    "image_of_another_size",  # than the latent cache holds
    *(f"{score}_below_min" for score in SCORES),
    *(f"{score}_above_max" for score in SCORES),
    *RULE_REASONS,
    "sha256_blocked",
    "ranked_below_best",  # of the run, or of its group, others have a better score
    "domain_over_cap",  # so many rows of its domain are better or come earlier
    "in_reference_set",  # the picture is in a set that this one must not repeat
    *DUPLICATE_REASONS,
)
ENCODE_REASONS: Final = (
    "latents_not_finite",
    ROW_FAILED,
    "latents_of_another_size",  # of runs made before select judged it
)
QUARANTINED: Final = "shard_quarantined"  # the engine gave its shard up
ENGINE_REASONS: Final = (QUARANTINED,)
TAKEDOWN_REASONS: Final = ("taken_down",)  # only the row's number is left, and a digest as its key
REASONS: Final = frozenset(
    PLAN_REASONS
    + PROMPT_REASONS
    + GENERATE_REASONS
    + LIST_REASONS
    + FETCH_REASONS
    + DECODE_REASONS
    + SCORE_REASONS
    + SELECT_REASONS
    + ENCODE_REASONS
    + ENGINE_REASONS
    + TAKEDOWN_REASONS
)

# img2dataset's words, and one more.
STATUSES: Final = ("success", "failed_to_download", "failed_to_resize", "failed_to_generate")

_IDENTITY = [
    pa.field("shard_id", pa.int32(), nullable=False),
    pa.field("row", pa.int32(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
]
_IMAGE_FACTS = [
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sha256", pa.string()),
    pa.field("final_url", pa.string()),
    pa.field("phash", pa.string()),
    pa.field("sharpness", pa.float32()),
    pa.field("entropy", pa.float32()),
    pa.field("contrast", pa.float32()),
]
_CAPTION_FACTS = [
    pa.field("caption_chars", pa.int32()),
    pa.field("caption_words", pa.int32()),
    pa.field("caption_language", pa.string()),
]
TOKEN_FIELDS: Final = (
    pa.field("caption_tokens", pa.int32()),  # without those that begin and end every caption
    pa.field("caption_is_cut", pa.bool_()),  # it has more than the text encoder reads
)
"""By the text encoder's tokenizer, counted by select; null where there is none, or no caption."""
RECAPTION: Final = pa.field("recaption", pa.string())
"""Caption from elsewhere (`captions.from`), which is trained on in the place of the list's; null
where it has none. Only in the ledger of a run that has such captions."""
_SCORE_FIELDS = [pa.field(name, pa.float32()) for name in SCORES]

# One row for EVERY input row; the list's own columns follow as `source_<name>`.
DOWNLOAD_FACTS: Final = pa.schema(
    [
        *_IDENTITY,
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("status", pa.string()),  # null: the row was settled before the fetch
        pa.field("reason", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("error_message", pa.string()),
        *_IMAGE_FACTS,
        *_CAPTION_FACTS,
    ]
)

# One row for every image that download stored; `embedding` (fixed-size float16) on request.
SCORE_FACTS: Final = pa.schema([*_IDENTITY, *_SCORE_FIELDS])

# One row for EVERY input row, written by select.
LEDGER: Final = pa.schema(
    [
        *_IDENTITY,
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("status", pa.string()),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("error_message", pa.string()),
        *_IMAGE_FACTS,
        *_CAPTION_FACTS,
        *TOKEN_FIELDS,
        *_SCORE_FIELDS,
    ]
)

# Rows that a step refused: `facts/score/rejects/` and `latents/rejects/`.
REJECTS: Final = pa.schema(
    [*_IDENTITY, pa.field("reason", pa.string()), pa.field("error_message", pa.string())]
)


# What a row of prompts may set.
SETTING_FIELDS: Final = (
    pa.field("negative_prompt", pa.string()),
    pa.field("seed", pa.int64()),
    pa.field("num_inference_steps", pa.int32()),
    pa.field("guidance_scale", pa.float64()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sampler", pa.string()),
    pa.field("init_key", pa.string()),
    pa.field("strength", pa.float64()),
    pa.field("mask", pa.string()),
)
# What a generated image was made with: in `facts/generate`, and in the ledger of such a run.
GENERATION_FIELDS: Final = (
    pa.field("prompt_key", pa.string()),
    pa.field("image_index", pa.int32()),
    *(field for field in SETTING_FIELDS if field.name not in ("width", "height")),
    pa.field("noise_seed", pa.int64()),  # what the image's noise is drawn from
    pa.field("notes", pa.string()),  # settings that did nothing, by commas
)
LATER_GENERATION_FIELDS: Final = frozenset({"noise_seed", "notes"})
"""Those that runs of earlier versions lack."""
GENERATE_FACTS: Final = pa.schema([*DOWNLOAD_FACTS, *GENERATION_FIELDS])


ORIGIN_FACTS: Final = {"download": DOWNLOAD_FACTS, "generate": GENERATE_FACTS}
"""What is known of every row, by the step that makes a run's images."""


def trained_captions(rows: pa.Table) -> pa.ChunkedArray:
    """What the text encoder is given for each row of a ledger: the caption from elsewhere where
    there is one, else the list's."""
    if RECAPTION.name not in rows.column_names:
        return rows["caption"]
    return pc.coalesce(rows[RECAPTION.name], rows["caption"])


def source_fields(schema: pa.Schema) -> list[pa.Field]:
    """The pass-through columns of the input list (`source_<name>`) in a facts or ledger schema."""
    return [field for field in schema if field.name.startswith("source_")]


def is_score(name: str) -> bool:
    """Whether a column of a ledger is what a scorer made, ours or one that was added."""
    known = (*LEDGER.names, *(field.name for field in GENERATION_FIELDS), RECAPTION.name)
    return name in SCORES or not (name in known or name.startswith(("source_", "__")))
