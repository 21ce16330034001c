"""Where the rows come from."""

from pydantic import Field, field_validator

from pipelines.config import StorageOptions
from pipelines.sources.config import ReadingConfig
from pipelines.sources.formats import FORMATS
from sd_core.tables import NameIn


class SourceConfig(ReadingConfig):
    """Where the rows come from and which of their columns mean what."""

    path: str = Field(min_length=1)
    """One file, a glob or a folder, on any fsspec URL; or `hub:org/name@revision`, with
    `/configuration` and `/split` behind it, a data set in the local cache of `datasets`."""
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)
    """Passed to fsspec; may hold secrets, so it is redacted wherever it is stored."""
    files_root: str | None = None
    """A folder that every machine of the job sees: `file://` URLs and paths in the list are read in
    it, relative ones from it on, and nothing outside of it. Null: they are no URLs."""

    @field_validator("format")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return NameIn(FORMATS, also=["auto"])(name)
