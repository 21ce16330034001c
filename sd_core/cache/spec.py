"""What a latent cache holds (`spec.json`), and whether two caches may be used together."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sd_core.errors import InputError
from sd_core.sealed import SealError, seal_tree, unseal

_FILES = "files"


class CacheMismatchError(InputError):
    """Caches (or a cache and a model) do not belong together; names each differing field."""


class CacheSpecError(InputError):
    """A `spec.json` cannot be read; says what is wrong with it."""


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class AutoencoderIdentity(_Record):
    """The autoencoder whose latents these are."""

    kind: Literal["kl", "tiny", "vq"]
    weights_sha256: str
    scaling_factor: float
    shift_factor: float
    """A model sees (raw - shift_factor) * scaling_factor."""
    latent_channels: int = Field(ge=1)
    downsampling: int = Field(ge=1)


class TextEncoderIdentity(_Record):
    """The text encoder and tokenizer that made the ids and embeddings."""

    weights_sha256: str
    tokenizer_sha256: str
    token_length: int = Field(ge=1)
    embed_dim: int = Field(ge=1)
    pad_token_id: int


class CacheIdentity(_Record):
    """What caches that are used together must share."""

    autoencoder: AutoencoderIdentity
    text_encoder: TextEncoderIdentity


class CacheSpec(_Record):
    """The contract of one cache; everything but `identity` may differ between caches."""

    schema_version: Literal[1, 2] = 1
    """2 where there are `buckets`, which readers of 1 do not know."""
    identity: CacheIdentity
    form: Literal["moments", "mean", "sample"]
    dtype: Literal["float16", "float32"]
    format: str
    """Of the shards: one of `CACHE_FORMATS`."""
    resolution_px: int | None = Field(default=None, ge=1)
    """Side of the images, where all are squares of one size."""
    buckets: tuple[tuple[int, int], ...] = ()
    """Else the sizes that they may have, as (width, height) in pixels; a shard's rows lie bucket by
    bucket, in this order."""
    crop: Literal["center"] = "center"
    flip: Literal["none"] = "none"
    prompt_embeds: bool
    """Whether text embeddings are stored beside the token ids."""
    sources: dict[str, str] = Field(default_factory=dict)
    """Where the models came from, for people."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "CacheSpec":
        if (self.resolution_px is None) != bool(self.buckets):
            raise ValueError("there is one of resolution_px and buckets")
        if self.schema_version != (2 if self.buckets else 1):
            raise ValueError("schema_version is 2 where there are buckets, and else 1")
        if len(set(self.buckets)) != len(self.buckets) or any(
            side % self.identity.autoencoder.downsampling for size in self.sizes for side in size
        ):
            raise ValueError("each bucket is there once, its sides multiples of downsampling")
        return self

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) in pixels that an image may have, by the number of its bucket."""
        side = self.resolution_px
        return self.buckets if side is None else ((side, side),)

    @property
    def latents_shape(self) -> tuple[int, int, int]:
        """(channels, h, w) of one stored latent, in a cache of one size.

        Raises:
            ValueError: it is one of several sizes; see `latents_shapes`.
        """
        shape, *others = self.latents_shapes
        if others:
            raise ValueError(f"the cache holds latents of {len(others) + 1} sizes: latents_shapes")
        return shape

    @property
    def latents_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, h, w) of stored latents, by bucket; moments have twice the channels."""
        autoencoder = self.identity.autoencoder
        channels = autoencoder.latent_channels * (2 if self.form == "moments" else 1)
        factor = autoencoder.downsampling
        return tuple((channels, height // factor, width // factor) for width, height in self.sizes)

    @property
    def embeds_shape(self) -> tuple[int, int]:
        """(L, D) of one caption's embeddings."""
        text_encoder = self.identity.text_encoder
        return text_encoder.token_length, text_encoder.embed_dim

    def to_json(self) -> bytes:
        """The spec as text: the same spec gives the same bytes."""
        return (json.dumps(self.tree(), indent=1, sort_keys=True) + "\n").encode()

    def tree(self) -> dict[str, Any]:
        """The spec as plain JSON; of one size as it was before there were buckets."""
        unused = "resolution_px" if self.buckets else "buckets"
        return self.model_dump(mode="json", exclude={unused})


def spec_file(spec: CacheSpec, files: Mapping[str, str]) -> bytes:
    """The content of a sealed `spec.json`; `files`: sha256 of those beside it, by name."""
    return seal_tree({**spec.tree(), _FILES: dict(files)})


def read_digests(content: bytes, *, where: str) -> Mapping[str, str]:
    """sha256 by name of the files beside a `spec.json`; empty before there were digests."""
    found: Mapping[str, str] = _tree(content, where=where).get(_FILES, {})
    return found


def _tree(content: bytes, *, where: str) -> dict[str, Any]:
    try:
        tree = unseal(content)
    except ValueError as error:
        found = error if isinstance(error, SealError) else f"Invalid JSON: {error}"
        raise CacheSpecError(f"{where}: not a cache's spec: {found}") from error
    return tree if isinstance(tree, dict) else {}


def read_spec(content: bytes, *, where: str) -> CacheSpec:
    """Parse a `spec.json`; raises `CacheSpecError` naming `where` and every fault."""
    tree = {name: value for name, value in _tree(content, where=where).items() if name != _FILES}
    try:
        return CacheSpec.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or '(top level)'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise CacheSpecError(f"{where}: not a cache's spec: {'; '.join(faults)}") from None


def check_identity(
    a: CacheIdentity,
    b: CacheIdentity | Mapping[str, Any],
    *,
    a_name: str = "this cache",
    b_name: str = "the other",
) -> None:
    """Check that two caches, or a cache and a model, may be used together.

    Of a model that is not loaded `b` is what is known of it, by field: `autoencoder.kind`.

    Raises:
        CacheMismatchError: naming each field that differs, with both values.
    """
    ours = _flatten(a.model_dump())
    theirs = _flatten(b.model_dump()) if isinstance(b, CacheIdentity) else b
    lines = [
        f"  - identity.{name}: {ours[name]!r} in {a_name}, {theirs[name]!r} in {b_name}"
        for name in ours
        if name in theirs and ours[name] != theirs[name]
    ]
    if lines:
        raise CacheMismatchError(
            f"{a_name} and {b_name} cannot be used together, {len(lines)} field(s) differ:\n"
            + "\n".join(lines)
        )


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
