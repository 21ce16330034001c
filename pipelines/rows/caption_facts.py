"""What is measured on captions: how long they are, and in which language."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Config

CAPTION_FACTS: Final = ("caption_chars", "caption_words", "caption_language")

_LEAST_PROBABILITY: Final = 0.05  # without any evidence, as for digits, the best one has less

# What most of the web is written in. The identifier knows 97 languages, and takes names of goods
# for the small ones: of 3,000 captions of LAION it then calls 70% English, and 84% of these.
_CODES = (
    "ar bg bn ca cs da de el en es et fa fi fr he hi hr hu id it ja ko lt lv ms nl no pl pt ro ru "
    "sk sl sr sv ta th tr uk vi zh"
)
LANGUAGES: Final = tuple(_CODES.split())


class CaptionFactsConfig(Config):
    """Which facts of a caption are measured; one that is off is null in every row."""

    caption_chars: bool = True
    """Its characters."""
    caption_words: bool = True
    """Its words, between white space."""
    caption_language: bool = True
    """ISO 639-1 code, one of `LANGUAGES`; null where nothing speaks for one, as in `IMG_0042`."""

    def identity(self) -> dict[str, list[str]]:
        """The facts that are on, as `ImageFactsConfig.identity`."""
        names = [name for name, is_on in self.model_dump().items() if is_on]
        return {"caption_facts": names} if names else {}


EVERY_CAPTION_FACT: Final = CaptionFactsConfig()


def measure_captions(captions: pa.Array, config: CaptionFactsConfig) -> dict[str, pa.Array]:
    """The columns `CAPTION_FACTS`; null where the caption is null or the fact is off.

    Args:
        captions: Strings, as the ledger has them.
    """
    texts = captions.cast(pa.string())
    columns: dict[str, pa.Array] = {
        "caption_chars": pa.nulls(len(texts), pa.int32()),
        "caption_words": pa.nulls(len(texts), pa.int32()),
        "caption_language": pa.nulls(len(texts), pa.string()),
    }
    if config.caption_chars:
        columns["caption_chars"] = pc.utf8_length(texts)
    if config.caption_words:
        columns["caption_words"] = count_words(texts)
    if config.caption_language:
        columns["caption_language"] = pa.array(_languages(texts.to_pylist()), pa.string())
    return columns


def count_words(texts: pa.Array) -> pa.Array:
    """Words between white space of each text, int32."""
    return pc.count_substring_regex(texts, r"[^\s\p{Z}]+")


def _languages(texts: Sequence[str | None]) -> Iterable[str | None]:
    identifier = _identifier()
    for text in texts:
        yield None if text is None else _language(identifier, text)


def _language(identifier: Any, text: str) -> str | None:
    language, _ = identifier.classify(text)
    return None if language == "und" else str(language)


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True, min_confidence=_LEAST_PROBABILITY
    )
    identifier.set_languages(list(LANGUAGES))
    return identifier
