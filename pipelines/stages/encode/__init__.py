"""Encode: kept images into the latent cache."""

from pipelines.stages.encode.encode import EncodeConfig
from pipelines.stages.encode.step import EncodeStep
from pipelines.stages.encode.stored import StoredLatentsStep

__all__ = ["EncodeConfig", "EncodeStep", "StoredLatentsStep"]
