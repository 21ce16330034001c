"""One prompt of a list: its own settings, each in its type or refused with a reason."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipelines.prompts.samplers import sampler_name
from pipelines.rows.keys import MAX_PROMPT_KEY_CHARS, PROMPT_KEY, is_key
from sd_core.sampling.noise import first_seed

MAX_IMAGES_A_ROW: Final = 10_000
_MAX_SEED = 2**63 - 1
_MAX_SIDE_PX = 16_384
_MAX_STEPS = 10_000
_MAX_EXACT = 2**53  # beyond it a floating point number does not hold every digit
_COUNTS = ("num_images", "image_index")
"""They say how many images there are and which, not what they are: no part of a key."""


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A row of the list, parsed.

    Attributes:
        key: The row's name; its images are `{key}-{i}`.
        settings: Its own ones by name; what is absent comes from the configuration.
        content: Digest of what the images are made from: the same text with the same settings.
        digest: Of everything in the row that counts; another one with the same is a repetition.
        notes: Names of `NOTES`: what of it does nothing, whatever the configuration says.
        reason: Null, or why no image is made.
    """

    key: str
    prompt: str | None
    settings: Mapping[str, Any]
    content: str
    digest: str
    notes: tuple[str, ...] = ()
    reason: str | None = None
    error_message: str | None = None

    @property
    def image_indices(self) -> range:
        """Which images the row asks for; a refused one stands for one row."""
        index = self.settings.get("image_index")
        if self.reason is not None or index is not None:
            return range(index or 0, (index or 0) + 1)
        return range(self.settings.get("num_images", 1))


def parse_prompt(
    prompt: str | None,
    raw: Mapping[str, Any],
    *,
    num_images: int,
    reason: str | None = None,
    error_message: str | None = None,
    samplers: Mapping[str, str] | None = None,
) -> PromptRow:
    """Parse one row; what is wrong with it becomes its reason, and its key stays.

    Args:
        prompt: Its text; null or blank is refused, but for a row with an `init_key`.
        raw: Column to value, of the columns named in `PROMPT_SETTINGS` and `key`, as read.
        num_images: The configuration's, for rows without their own.
        reason: Why the reader refused the row already; `error_message` says more.
        samplers: Names of the list, and ours to take in their place.
    """
    read = _read_settings(raw, samplers)
    settings = read.settings
    asked_key = None if raw.get("key") in (None, "") else str(raw["key"])
    is_refused_key = asked_key is not None and not is_key(asked_key, PROMPT_KEY)
    fault = (reason, error_message) if reason else _fault(prompt, read, is_refused_key)
    asked_key = None if is_refused_key else asked_key
    what = {n: v for n, v in settings.items() if n not in _COUNTS} | read.unread
    content = _digest([prompt, what], 16)
    key = asked_key or _digest([prompt, what], 8)
    if fault is not None:
        told = [prompt, {name: str(value) for name, value in raw.items()}, fault[0]]
        content = digest = _digest(told, 8)
        settings = {n: v for n, v in settings.items() if n == "image_index"}
    else:
        settings.setdefault("num_images", num_images)
        digest = _digest([key, content, [settings.get(name) for name in _COUNTS]], 8)
    return PromptRow(
        key=key,
        prompt=prompt,
        settings=settings,
        content=content,
        digest=digest,
        notes=() if fault else read.notes,
        reason=fault[0] if fault else None,
        error_message=fault[1] if fault else None,
    )


def _fault(
    prompt: str | None, read: "_ReadSettings", is_refused_key: bool
) -> tuple[str, str | None] | None:
    """Reason and message of the first thing that is wrong with a row."""
    if read.fault is not None:
        return read.fault
    if is_refused_key:
        return "key_invalid", f"key: allowed are 1 to {MAX_PROMPT_KEY_CHARS} of A-Z a-z 0-9 _ -"
    if not (prompt or "").strip() and "init_key" not in read.settings:
        return "prompt_missing", None
    return None


@dataclass(frozen=True, kw_only=True)
class _ReadSettings:
    """A row's settings: those that could be read, and the text of those that could not."""

    settings: dict[str, Any]
    unread: dict[str, str]
    notes: tuple[str, ...]
    fault: tuple[str, str | None] | None
    """The first reason, and more about it."""


def _read_settings(raw: Mapping[str, Any], samplers: Mapping[str, str] | None) -> _ReadSettings:
    settings: dict[str, Any] = {}
    unread: dict[str, str] = {}
    fault: tuple[str, str | None] | None = None
    for name, (parse, code) in _PARSERS.items():
        try:
            value = parse(raw.get(name))
        except ValueError as error:
            fault = fault or (code, f"{name}: {error}")
            unread[name] = str(raw.get(name))
        else:
            if value is not None:
                settings[name] = value
    if "sampler" in settings:
        settings["sampler"] = sampler_name(settings["sampler"], samplers)
    notes = []
    if "image_index" in settings and settings.get("num_images", 1) != 1:
        notes.append("num_images_unused")
    if "noise_seed" in settings:
        seed = first_seed(settings.pop("noise_seed"), settings.get("image_index", 0))
        if settings.get("seed", seed) != seed:
            notes.append("seed_unused")
        settings["seed"] = seed
    return _ReadSettings(settings=settings, unread=unread, notes=tuple(notes), fault=fault)


def _digest(tree: Any, size: int) -> str:
    text = json.dumps(tree, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()


def _number(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool):
        raise ValueError(f"found {value}, a number is needed")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"found {str(value)[:40]!r}, a number is needed") from None
    if not math.isfinite(number):
        raise ValueError(f"found {number}, a finite number is needed")
    return number


def _integer(low: int, high: int) -> Callable[[Any], int | None]:
    def parse(value: Any) -> int | None:
        whole = _whole(value)
        if whole is not None and not low <= whole <= high:
            raise ValueError(f"found {whole}, allowed are {low} to {high}")
        return whole

    return parse


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)  # through a float it would lose digits
    number = _number(value)
    if number is None or isinstance(value, int):
        return None if number is None else int(value)
    if not number.is_integer():
        raise ValueError(f"found {number:g}, a whole number is needed")
    if abs(number) > _MAX_EXACT:
        raise ValueError(
            f"found {number:g} as a floating point number, which does not hold all of its digits; "
            "store the column as whole numbers or as text"
        )
    return int(number)


def _real(low: float, high: float) -> Callable[[Any], float | None]:
    def parse(value: Any) -> float | None:
        number = _number(value)
        if number is not None and not low <= number <= high:
            raise ValueError(f"found {number:g}, allowed are {low:g} to {high:g}")
        return number

    return parse


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


_PARSERS: Final[Mapping[str, tuple[Callable[[Any], Any], str]]] = {
    "negative_prompt": (_text, "row_unreadable"),
    "seed": (_integer(0, _MAX_SEED), "seed_invalid"),
    "noise_seed": (_integer(0, _MAX_SEED), "seed_invalid"),
    "num_images": (_integer(1, MAX_IMAGES_A_ROW), "num_images_invalid"),
    "image_index": (_integer(0, MAX_IMAGES_A_ROW - 1), "num_images_invalid"),
    "num_inference_steps": (_integer(1, _MAX_STEPS), "num_inference_steps_invalid"),
    "guidance_scale": (_real(0, 1000), "guidance_scale_invalid"),
    "width": (_integer(1, _MAX_SIDE_PX), "size_invalid"),
    "height": (_integer(1, _MAX_SIDE_PX), "size_invalid"),
    "sampler": (_text, "sampler_unknown"),
    "init_key": (_text, "init_missing"),
    "strength": (_real(0, 1), "strength_invalid"),
    "mask": (_text, "mask_invalid"),
}
PROMPT_SETTINGS: Final = tuple(_PARSERS)
"""Columns of a list of prompts that set how its images are made; all others pass through."""
