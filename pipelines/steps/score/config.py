"""What to score with: one key for each scorer of `SCORERS`."""

import json
from collections.abc import Mapping
from typing import Any, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from pipelines.rows.ledger import GENERATION_FIELDS, LEDGER, RECAPTION, SCORES
from pipelines.run.schemas import columns_of
from pipelines.steps.score.heads import HeadConfig
from pipelines.steps.score.scorer import Scorer, ScorerConfig
from pipelines.steps.score.scorers import SCORERS
from sd_core.model.clip import ClipConfig, clip_embed_dim
from sd_core.model.clip_text import TextLength
from sd_core.model.config import ModelConfig
from sd_core.model.weights import WeightsNeed

_WITHOUT_TEXT = "without_text"  # of `SCORERS`, which the section `clip` asks for


class ScoreClipConfig(ClipConfig):
    """The CLIP of the scorers, and what is scored by it twice."""

    without_text: bool = False
    """Also `clip_similarity_without_text`: lines of writing are filled from what is around them."""


class ScoreConfig(ModelConfig):
    """What to score with; a score whose model is not configured is null in every row.

    Every further scorer of `SCORERS` has its section here under its key; `true` is a section
    without options.
    """

    model_config = ConfigDict(extra="allow")  # and held against the table below

    clip: ScoreClipConfig | None = None
    """The CLIP that feeds the scorers which read one: the heads, similarity and embeddings."""
    aesthetic_v1: HeadConfig | None = None
    """LAION's first aesthetic head, one layer, 0 to 10. Null: no `aesthetic_v1`."""
    aesthetic_v2: HeadConfig | None = None
    """LAION's second one, five layers, 0 to 10. Null: no `aesthetic_v2`."""
    nsfw: HeadConfig | None = None
    """Head that gives `punsafe`."""
    watermark: HeadConfig | None = None
    """Head of the same form that gives `pwatermark`; LAION published none for embeddings."""
    similarity: bool = True
    """Cosine of image and caption embeddings, as `clip_similarity`; false where there is no clip
    and it is not asked for."""
    embeddings: bool = False
    """Keep the image embeddings (float16) in the facts."""
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Images, and captions, per forward; part of the result's last bit."""
    text_length: TextLength = "steps"
    """Tokens to which captions are cut for `similarity`: `steps` is the first of 16, 32 and the
    CLIP's own number that holds one, `full` always the latter, which differs in the last bits. A
    run that was begun with `full`, by an earlier version, goes on with it unless told otherwise."""

    @classmethod
    def further_keys(cls) -> Mapping[str, type[BaseModel]]:
        """The keys that stand in the table alone, with their sections."""
        own = (*cls.model_fields, _WITHOUT_TEXT)
        return {n: s.Config for n, s in SCORERS.items() if n not in own}

    @model_validator(mode="before")
    @classmethod
    def _without_clip(cls, told: Any) -> Any:
        if isinstance(told, dict) and told.get("clip") is None:
            return {"similarity": False} | told
        return told

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._read_further()
        scorers = self.scorers()
        if not scorers:
            raise ValueError("nothing to score: set a head, similarity or embeddings")
        readers = [name for name in scorers if SCORERS[name].reads_clip]
        if self.clip is None and readers:
            raise ValueError(f"clip is required: {', '.join(readers)} cannot do without it")
        makers: dict[str, str] = {}
        for name, section in scorers.items():
            for column in SCORERS[name].columns_of(section):
                _check_column(column, name)
                if makers.setdefault(column.name, name) != name:
                    raise ValueError(
                        f"{makers[column.name]} and {name} both make {column.name}; leave one out"
                    )
        return self

    def _read_further(self) -> None:
        """Validate the sections of the table's scorers, which came in as they stand in the YAML."""
        told = self.__pydantic_extra__
        if not told:
            return
        sections: dict[str, Any] = {n: (s | None, None) for n, s in self.further_keys().items()}
        model = create_model("FurtherScorers", __base__=ModelConfig, **sections)
        read = model.model_validate_json(json.dumps({n: _tree(v) for n, v in told.items()}))
        told.clear()
        told |= {n: value for n in sections if (value := getattr(read, n)) is not None}

    def scorers(self) -> dict[str, ScorerConfig]:
        """The sections of the scorers that are asked for, in the table's order."""
        asked = {name: getattr(self, name, None) for name in SCORERS}
        asked[_WITHOUT_TEXT] = self.clip is not None and self.clip.without_text
        return {
            name: section if isinstance(section, ScorerConfig) else SCORERS[name].Config()
            for name, section in asked.items()
            if section
        }

    def check_weights(self, where: str) -> None:
        """Refuse weights that do not go with the CLIP, before one is loaded; `where` is this
        section's key.

        Raises:
            WeightsError: naming the key and the file.
        """
        embed_dim = None if self.clip is None else clip_embed_dim(self.clip)
        for name, section in self.scorers().items():
            SCORERS[name].check(section, embed_dim=embed_dim, where=f"{where}.{name}")

    def of_run(self, recorded: Mapping[str, Any]) -> Self:
        """The same for a run whose score was recorded with these options; empty where it was not
        begun."""
        is_told = "text_length" in recorded or "text_length" in self.model_fields_set
        if is_told or not recorded.get("similarity"):
            return self
        return self.model_copy(update={"text_length": "full"})

    @property
    def reads_captions(self) -> bool:
        """Whether any scorer does."""
        return any(SCORERS[name].reads_captions for name in self.scorers())

    def columns(self) -> list[pa.Field]:
        """What the scorers that are asked for make for the ledger."""
        asked = self.scorers().items()
        return [column for name, section in asked for column in SCORERS[name].columns_of(section)]

    @property
    def tells_fields(self) -> bool:
        """Whether `columns` are all that is written: how long embeddings are their model tells."""
        return all(SCORERS[name].fields is Scorer.fields for name in self.scorers())

    def further_columns(self) -> tuple[pa.Field, ...]:
        """Of these, the columns that only runs with such a scorer have."""
        return tuple(column for column in self.columns() if column.name not in SCORES)

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        needs = [] if self.clip is None else self.clip.weight_needs(f"{where}.clip")
        for name, section in self.scorers().items():
            needs += section.weight_needs(f"{where}.{name}")
        return needs

    def identity(self) -> dict[str, Any]:
        """The options that change a score, as plain JSON without secrets."""
        clip = {} if self.clip is None else {"clip": self.clip.identity()}
        cut = {"text_length": self.text_length} if self.text_length != "full" else {}
        return {
            **clip,
            **(cut if self.reads_captions else {}),
            **{name: self._identity_of(name) for name in self.scorers()},
            "similarity": self.similarity,
            "embeddings": self.embeddings,
            "batch_size": self.batch_size,
        }

    def _identity_of(self, name: str) -> dict[str, Any]:
        identity = self.scorers()[name].identity()
        if name in type(self).model_fields:
            return identity
        # Another set of columns makes other files, whatever the options say.
        columns = SCORERS[name].columns_of(self.scorers()[name])
        return identity | {"columns": list(columns_of(columns))}

    def describe_models(self) -> dict[str, str]:
        """One line for each model, for run.json."""
        clip = {} if self.clip is None else {"clip": self.clip.describe()}
        sections = self.scorers()
        for switch in ("similarity", "embeddings"):  # no models of their own
            sections.pop(switch, None)
        return {**clip, **{name: section.describe() for name, section in sections.items()}}


def all_score_columns() -> dict[str, str]:
    """Every column that a scorer of the table can make, and the key of the first that does."""
    found: dict[str, str] = {}
    for name, scorer in SCORERS.items():
        for column in scorer.columns:
            found.setdefault(column.name, name)
    return found


def _tree(value: Any) -> Any:
    """A section as JSON has it; it may come from Python as a model."""
    if isinstance(value, bool):
        return {} if value else None
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _check_column(column: pa.Field, scorer: str) -> None:
    name = column.name
    taken = {field.name for field in (*LEDGER, *GENERATION_FIELDS, RECAPTION)} - {*SCORES}
    if name in taken or name.startswith("source_") or name != name.lower():
        raise ValueError(
            f"{scorer}: its column {name} is taken, or not in lower case; give it another name"
        )
