"""What the user says about the list of prompts."""

from typing import Literal

from pydantic import Field

from pipelines.config import Config
from pipelines.sources import Source, SourceConfig
from pipelines.sources.config import CsvConfig


class PromptsConfig(Config):
    """Where the prompts come from."""

    path: str = Field(min_length=1)
    """One file, a glob or a folder, on any fsspec URL: Parquet, CSV, JSON lines, or text with a
    prompt a line."""
    format: Literal["auto", "parquet", "csv", "jsonl", "text"] = "auto"
    prompt_column: str | None = None
    """Null: `prompt` in any case, else recognised as captions are (`TEXT`, `caption`, ...)."""
    csv: CsvConfig = CsvConfig()
    """How a list that is text is written."""
    storage_options: dict[str, str | int | float | bool | dict[str, str] | None] = Field(
        default_factory=dict, repr=False
    )
    """Passed to fsspec; may hold secrets, so it is never stored."""

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
