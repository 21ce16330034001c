"""Input lists of every kind, as rows with keys."""

from pipelines.sources.config import SourceConfig, SourceError
from pipelines.sources.rows import SourceRange
from pipelines.sources.source import Source

__all__ = ["Source", "SourceConfig", "SourceError", "SourceRange"]
