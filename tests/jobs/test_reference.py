"""configs/REFERENCE.md names every key that a configuration may have, and says what it means."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from jobs.reference import (
    REFERENCE,
    Model,
    faults,
    job_models,
    keys_of,
    main,
    reference_page,
    sections,
)
from pipelines.config import Config

JOBS = job_models()


class Section(Config):
    """A section of the test's own."""

    timeout_s: float = 1.0
    """How long to wait."""
    share: float = Field(default=0.5, gt=0, le=1)
    """How much of it. Unit: share."""


class Complete(Config):
    """A configuration that tells everything."""

    section: Section = Section()
    many: list[Section] = Field(default_factory=list)
    """In order."""
    named: dict[str, Section] | None = None
    """By name."""
    form: Literal["long", "short"]
    """How it looks."""


class Table:
    """A mark that a value is a section of a table, as `Forms` of rules is."""

    def models(self) -> list[Model]:
        return [Section]


class Listed(Config):
    """A configuration with sections of a table."""

    rules: tuple[Annotated[Config, Table()], ...] = ()
    """In order."""
    rule: Annotated[Config, Table()]
    """Alone."""


class Silent(Config):
    """A configuration that leaves things out."""

    width_of_the_belt: int = 3
    """A number without a unit."""
    unexplained: str = ""


class Untold(Config):
    section: Silent


def test_the_page_is_that_of_the_models() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference_page(), "run `make reference`"


def test_every_key_has_a_meaning_and_every_number_a_unit() -> None:
    assert faults(JOBS) == []


@pytest.mark.parametrize("job", JOBS)
def test_no_key_of_the_schema_is_left_out(job: str) -> None:
    """Pydantic's own schema walks the models by itself."""
    schema = JOBS[job].model_json_schema()
    further = {key for model in sections(JOBS) for key in getattr(model, "further_keys", dict)()}
    told = {
        model.__name__: {key.name for key in keys_of(model)} - further for model in sections(JOBS)
    }
    assert further == {"text", "open_nsfw"}
    bases = {base.__name__ for model in sections(JOBS) for base in model.__mro__}
    for name, section in {JOBS[job].__name__: schema, **schema.get("$defs", {})}.items():
        if name not in told and name in bases:
            continue  # one of a table takes its place
        assert told[name] == set(section["properties"])
        for key in told[name]:
            assert f"{key}` | " in REFERENCE.read_text(encoding="utf-8")


def test_a_key_without_a_word_or_a_unit_is_named() -> None:
    assert [fault.split(".")[-2:] for fault in faults({"job": Untold})] == [
        ["Untold", " has no text under its field"],
        ["Silent", "width_of_the_belt is a number without a unit"],
        ["Silent", "unexplained has no text under its field"],
    ]


def test_a_key_is_told_with_its_type_bounds_default_and_unit() -> None:
    assert faults({"job": Complete}) == []
    keys = {key.name: key for model in (Complete, Section) for key in keys_of(model)}
    assert keys["section"].meaning == "A section of the test's own."
    assert keys["timeout_s"].unit == "seconds"
    assert (keys["share"].type, keys["share"].default) == ("number, above 0, at most 1", "`0.5`")
    assert (keys["share"].meaning, keys["share"].unit) == ("How much of it.", "share")
    assert (keys["form"].type, keys["form"].default) == ("`long` or `short`", "must be set")
    assert keys["named"].type == "mapping of names to: section or null"


def test_a_section_is_told_once_with_each_place_it_stands_at() -> None:
    jobs: dict[str, Model] = {"one": Complete, "other": Complete}
    places = ["section", "many.N", "named.<name>"]
    assert sections(jobs)[Section] == {"one": places, "other": places}


def test_sections_of_a_table_are_told_in_the_place_of_their_base() -> None:
    assert sections({"job": Listed}) == {
        Listed: {"job": [""]},
        Section: {"job": ["rules.N", "rule"]},
    }


def test_the_command_writes_the_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    page = tmp_path_factory.mktemp("reference") / "page.md"
    assert main(["--output", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == reference_page()
    assert main(["--output", str(page / "none.md")]) == 2
