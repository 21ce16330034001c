"""What curate and generate are both told: where the run lies, and the steps that they share."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from pipelines.config import Config, StorageOptions
from pipelines.engine.config import EngineConfig
from pipelines.rows.caption_facts import CaptionFactsConfig
from pipelines.run.store import RunStore
from pipelines.steps.kinds import further_kinds
from pipelines.steps.score import ScoreConfig
from pipelines.steps.select import SelectConfig
from pipelines.workflows.checks import check_scores_are_made
from sd_core.model.weights import WeightsNeed


class ModelSection(Protocol):
    """The section of a step that loads models."""

    def weight_needs(self, where: str) -> list[WeightsNeed]: ...

    def describe_models(self) -> dict[str, Any]: ...


class JobConfig(Config):
    """The sections that every job of committed steps has."""

    origin: ClassVar[str]
    """The step that makes the run's images."""

    output: str = Field(min_length=1)
    """The run's folder: an absolute path or an fsspec URL."""
    caption_facts: CaptionFactsConfig = CaptionFactsConfig()
    """What is measured on the captions, or on the prompts."""
    score: ScoreConfig | None = None
    """Null: nothing is scored."""
    select: SelectConfig = SelectConfig()
    steps: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    """Further steps of the table (`pipelines/steps/kinds.py`), each by its name with its own
    options. `publish` is there by default: it stores the kept images once more, as readers find
    them in `images/`; `publish: null` leaves it out."""
    engine: EngineConfig = EngineConfig()
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """Passed to fsspec for `output`; may hold secrets, so it is never stored."""

    @field_validator("steps", mode="after")
    @classmethod
    def _read_further(cls, told: dict[str, Any]) -> dict[str, Any]:
        known = further_kinds()
        read: dict[str, Any] = {}
        defaults: dict[str, Any] = {name: {} for name, kind in known.items() if kind.is_default}
        for name, section in {**defaults, **told}.items():
            config = known[name].config if name in known else None
            if config is None:
                raise ValueError(f"{name}: no further step; allowed: {', '.join(known)}")
            if section is not None or not known[name].is_default:
                read[name] = (
                    section if isinstance(section, config) else _read(config, section, name)
                )
        return read

    @model_validator(mode="after")
    def _scores_are_made(self) -> Self:
        check_scores_are_made(self.select, self.score)
        return self

    def old_keys(self) -> Iterator[str]:
        """A line for each old key that is used: what to write instead."""
        yield from self.select.old_keys()

    def optional_steps(self) -> Mapping[str, object | None]:
        """The section of each step that may be left out; None where it is."""
        raise NotImplementedError

    def sections(self) -> Mapping[str, object | None]:
        """The same with the further steps of the table."""
        further = {name: self.steps.get(name) for name in further_kinds()}
        return {**self.optional_steps(), **further}

    def model_sections(self) -> Mapping[str, ModelSection | None]:
        """The section of each step that loads models; None where it is left out."""
        raise NotImplementedError

    def steps_left_out(self, store: RunStore) -> set[str]:
        """The steps that are not configured, and those that a run of an earlier version, which
        has no folders for readers alone, does not have."""
        off = {name for name, section in self.sections().items() if section is None}
        if store.is_flat:
            off |= {name for name, kind in further_kinds().items() if kind.is_default}
        return off

    def weight_needs(self) -> list[WeightsNeed]:
        """What `check_weights` must find, of every model."""
        sections = self.model_sections().items()
        return [need for name, part in sections if part for need in part.weight_needs(name)]

    def describe_models(self) -> dict[str, Any]:
        """What run.json says of the models, random weights included."""
        sections = self.model_sections().items()
        return {name: part.describe_models() for name, part in sections if part}


def _read(config: type[Config], section: Any, name: str) -> Config:
    try:
        return config.model_validate_json(json.dumps(section or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (name, *first["loc"]))
        raise ValueError(f"{where}: {first['msg']}") from None
