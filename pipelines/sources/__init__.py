"""Input lists of every kind, as rows with keys."""

from pipelines.sources.config import SourceError
from pipelines.sources.rows import SourceRange
from pipelines.sources.source import Source
from pipelines.sources.source_config import SourceConfig

__all__ = ["Source", "SourceConfig", "SourceError", "SourceRange"]
