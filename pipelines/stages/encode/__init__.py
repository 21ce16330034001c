"""Encode: kept images into the latent cache."""

from pipelines.stages.encode.cache_files import publish_cache
from pipelines.stages.encode.encode import EncodeConfig
from pipelines.stages.encode.step import EncodeStep

__all__ = ["EncodeConfig", "EncodeStep", "publish_cache"]
