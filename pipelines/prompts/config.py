"""What the user says about the list of prompts."""

from typing import Literal, Self

from pydantic import Field, model_validator

from pipelines.config import Config, StorageOptions
from pipelines.prompts.columns import SETTINGS
from pipelines.sources import Source, SourceConfig
from pipelines.sources.config import CsvConfig
from sd_core.sampling.samplers import SamplerName


class PromptsConfig(Config):
    """Where the prompts come from."""

    path: str = Field(min_length=1)
    """One file, a glob or a folder, on any fsspec URL: Parquet, CSV, JSON lines, or text with a
    prompt a line."""
    format: Literal["auto", "parquet", "csv", "jsonl", "text"] = "auto"
    """`auto` goes by the file names."""
    prompt_column: str | None = None
    """Null: `prompt` in any case, else recognised as captions are (`TEXT`, `caption`, ...)."""
    csv: CsvConfig = CsvConfig()
    """How a list that is text is written."""
    columns: dict[str, str | None] = Field(default_factory=dict)
    """Setting to the column that it is read from, where that has another name; null: from none."""
    samplers: dict[str, SamplerName] = Field(default_factory=dict)
    """Samplers as the list names them (or DiffusionDB's code), and ours to take in their place."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """Passed to fsspec; may hold secrets, so it is never stored."""

    @model_validator(mode="after")
    def _columns_are_settings(self) -> Self:
        unknown = [name for name in self.columns if name not in SETTINGS]
        if unknown:
            raise ValueError(
                f"columns: {unknown[0]!r} is no setting; allowed: {', '.join(SETTINGS)}"
            )
        return self

    def source(self) -> Source:
        """The list as rows without URLs."""
        return Source(
            SourceConfig(
                path=self.path,
                format=self.format,
                url_column="",
                caption_column=self.prompt_column,
                csv=self.csv,
                storage_options=self.storage_options,
            )
        )


class PromptPlanConfig(Config):
    """How the images are cut into shards."""

    images_per_shard: int = Field(default=1000, ge=1, le=100_000)
    """A prompt's images are never parted, so a shard may hold a few more."""
