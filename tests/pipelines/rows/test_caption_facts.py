"""Facts of captions: lengths are exact, and the language is right where a caption shows one."""

import pyarrow as pa
import pytest

from pipelines.rows.caption_facts import LANGUAGES, CaptionFactsConfig, measure_captions


def measure(captions: list[str | None], **options: bool) -> dict[str, list]:
    columns = measure_captions(pa.array(captions, pa.string()), CaptionFactsConfig(**options))
    return {name: column.to_pylist() for name, column in columns.items()}


def test_lengths_count_characters_and_words_between_white_space() -> None:
    facts = measure(["a red  car", " ", "", None, "日本語\u3000写真", "naïve\tcafé\n"])
    assert facts["caption_chars"] == [10, 1, 0, None, 6, 11]
    assert facts["caption_words"] == [3, 0, 0, None, 2, 2]


@pytest.mark.parametrize(
    ("language", "caption"),
    [
        ("en", "a photo of a dog on the beach"),
        ("de", "Der Hund läuft am Strand entlang"),
        ("fr", "Un chien sur la plage au coucher du soleil"),
        ("es", "Un perro corriendo por la playa con su dueño"),
        ("ru", "Большая рыжая собака играет с мячом на берегу моря"),
        ("ja", "犬と猫が浜辺を走っている"),
        ("zh", "狗在海滩上奔跑"),
        ("ar", "كلب يجري على الشاطئ"),
    ],
)
def test_language_of_a_whole_sentence_is_found(language: str, caption: str) -> None:
    assert language in LANGUAGES
    assert measure([caption])["caption_language"] == [language]


@pytest.mark.parametrize("caption", [None, "", "  ", "123", "!?", "0042-17"])
def test_a_caption_that_shows_no_language_has_none(caption) -> None:
    assert measure([caption])["caption_language"] == [None]


def test_a_fact_that_is_off_is_null() -> None:
    for name in CaptionFactsConfig.model_fields:
        facts = measure(["a red car"], **{name: False})
        assert facts[name] == [None]
        assert all(values != [None] for other, values in facts.items() if other != name)
