"""Whether nearly all of the first rows drop for one reason, and what to say and advise then."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

FIRST_ROWS: Final = 200
FEWEST_ROWS: Final = 10
"""Of fewer, one reason says little."""
_SHARE_PERCENT: Final = 95

_NETWORK = (
    "is this machine offline, or let out only by a firewall or a proxy (proxies are not used)? An "
    "old list's servers may be gone too"
)
_COLUMN = "is it the right column? Name it in source.url_column (of prompts: prompts.columns)"
_RULE = (
    "is the rule meant so, and the column on that scale? Later cuts need no new fetch: --steps "
    "select,encode"
)
_SIZE = "see image.min_side_px, image.max_aspect and image.max_pixels"
_PROMPTS = "see prompts.columns, and what the example's message allows"

_ADVICE: Final[Mapping[str, str]] = {
    "dns_failed": _NETWORK,
    "connection_failed": _NETWORK,
    "download_timed_out": f"{_NETWORK}. Of a slow one, raise download.timeout_s or lower "
    "download.threads",
    "tls_failed": "are the machine's clock and certificates right, or does a proxy read along?",
    "address_refused": "the URLs lead into a private network, which is refused unless "
    "download.allow_networks names it",
    "scheme_refused": "only http and https are fetched; files and paths in a list need "
    "source.files_root",
    "url_missing": _COLUMN,
    "url_invalid": f"{_COLUMN}; where they are paths of files, set source.files_root",
    "row_unreadable": "see source.csv and source.format: delimiter, quotes, encoding",
    "duplicate_row": "are URL and caption the right columns? They are the same in these rows",
    "file_missing": "is source.files_root the folder that the list's paths are in?",
    "member_missing": "are the pictures where the source says, and of a known format?",
    "http_forbidden": "the servers refuse: hot-linking, or the user agent; see "
    "download.user_agent, and whether they allow it",
    "http_rate_limited": "fetch more slowly: lower download.max_per_host and download.threads, "
    "then --retry",
    "http_not_found": "is the list old, or the column one of pages or ids and not of pictures?",
    "http_gone": "is the list old?",
    "http_server_error": "the servers fail; give them time, then --retry",
    "opted_out": "the servers ask not to be used so; see download.honour_opt_out_directives",
    "content_hash_mismatch": "is source.content_hash a hash of the file, and not of its URL?",
    "format_unsupported": "are these URLs of pages, and not of pictures? See source.url_column",
    "image_unreadable": "are these URLs of pages, and not of pictures? See source.url_column",
    "image_too_small": _SIZE,
    "aspect_above_max": _SIZE,
    "too_small_for_bucket": "see image.buckets.max_enlarge, or take smaller buckets",
    "too_many_pixels": _SIZE,
    "decode_out_of_memory": "see image.max_memory_bytes",
    "decoder_crashed": "does this machine have the memory for its workers? Then --retry",
    "image_of_another_size": "see image.size, and that of the cache's model",
    "value_missing": "the column is null in these rows: is its name right?",
    "latents_not_finite": "see encode's precision: fp16 may be too narrow for this autoencoder",
    "image_not_finite": "see the model's precision: fp16 may be too narrow for it",
    "init_missing": "is generate.init the run that the keys are of?",
    "prompt_missing": _COLUMN,
}
_BY_ENDING: Final = {
    ("_below_min", "_above_max", "_not_allowed", "_not_met", "_blocked", "_below_best", "_cap"): (
        _RULE
    ),
    ("_invalid", "_unknown"): _PROMPTS,
}


def prevailing(reasons: Counter[str], *, rows: int) -> str | None:
    """The reason for which at least 95% of the rows dropped; None where there is none."""
    for reason, count in reasons.most_common(1):
        if rows >= FEWEST_ROWS and count * 100 >= rows * _SHARE_PERCENT:
            return reason
    return None


def warning_of(reasons: Counter[str], *, rows: int, example: str) -> str:
    """The line that says so.

    Args:
        rows: Of which `reasons` are counted.
        example: One of them, without secrets.
    """
    reason, count = reasons.most_common(1)[0]
    advice = _advice(reason)
    return (
        f"warning: {count:,} of the first {rows:,} rows are dropped as {reason}"
        + (f", such as {example}" if example else "")
        + f". Advice: {advice}. The job goes on"
    )


def _advice(reason: str) -> str:
    for endings, advice in _BY_ENDING.items():
        if reason not in _ADVICE and reason.endswith(endings):
            return advice
    return _ADVICE.get(reason, "jobs/why.py tells the life of such a row")
