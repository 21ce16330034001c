"""The base of every model's configuration section."""

from pydantic import BaseModel, ConfigDict


class ModelConfig(BaseModel):
    """Frozen, strict, closed to unknown keys; each component keeps its own beside its code."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )
