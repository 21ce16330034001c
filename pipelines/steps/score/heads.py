"""LAION's score heads: small stacks of linear layers on the L2-normalised image embedding."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.steps.score.scorer import ScoreBatch, Scorer, ScorerConfig, Scores
from sd_core.model.clip import Clip
from sd_core.model.memory import aligned, place_module
from sd_core.model.weights import (
    WeightsError,
    WeightsNeed,
    loads_weights,
    public_reference,
    resolve_weights,
    weights_identity,
    weights_sha256,
)

HeadKind = Literal["aesthetic", "nsfw"]

# A Keras StringLookup gives a value that is not in its vocabulary this index.
_OUT_OF_VOCABULARY = 1.0
_KERAS_EPSILON = 1e-7


class HeadConfig(ScorerConfig):
    """One head's weights."""

    weights: str
    """A reference to a `.safetensors`, `.npz` or `.pth` file of tensors."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of that file."""

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        return [WeightsNeed(f"{where}.weights", self.weights, self.sha256)]

    def identity(self) -> dict[str, Any]:
        return weights_identity(self.weights, self.sha256)

    def describe(self) -> str:
        return public_reference(self.weights)


class ScoreHead(nn.Module):
    """Linear layers on a normalised embedding; the structure is read off the weights.

    Aesthetic heads (V1 is one layer, V2 five) have no activation between their layers and give
    the score as it is. NSFW heads standardise the embedding first, have ReLU between their layers
    and a sigmoid at the end.

    Sources: LAION-AI/aesthetic-predictor, christophschuhmann/improved-aesthetic-predictor,
    LAION-AI/CLIP-based-NSFW-Detector (an AutoKeras model).
    """

    def __init__(self, tensors: Mapping[str, Tensor], kind: HeadKind) -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(_linear_layers(tensors))
        if kind == "nsfw":
            self.register_buffer("mean", tensors["norm.mean"].float())
            deviation = tensors["norm.variance"].float().sqrt()
            self.register_buffer("deviation", deviation.clamp(min=_KERAS_EPSILON))
            looked_up = tensors.get("categorical_columns", torch.zeros(0))
            self.register_buffer("looked_up", looked_up.long())
        self.eval().requires_grad_(False)

    @property
    def embed_dim(self) -> int:
        """Length of the embedding that the head was trained on."""
        return int(self.layers[0].in_features)  # type: ignore[arg-type]

    def forward(self, embeddings: Tensor) -> Tensor:
        """Score (B, embed_dim) embeddings of any length (they are L2-normalised here): (B,)."""
        hidden = nn.functional.normalize(embeddings.float(), dim=-1)
        if self.kind == "nsfw":
            hidden = self._standardise(hidden)
        hidden = aligned(hidden)
        for index, layer in enumerate(self.layers):
            if index and self.kind == "nsfw":
                hidden = hidden.relu()
            hidden = layer(hidden)
        scores = hidden.squeeze(-1)
        return scores.sigmoid() if self.kind == "nsfw" else scores

    def _standardise(self, embeddings: Tensor) -> Tensor:
        # AutoKeras took a few columns for categories and looks their text up in a vocabulary that
        # real embeddings are not in. Their deviation is in the hundreds, so it matters little.
        columns = embeddings.clone()
        columns[:, self.looked_up] = _OUT_OF_VOCABULARY  # type: ignore[index]
        return (columns - self.mean) / self.deviation  # type: ignore[operator]


class HeadScorer(Scorer):
    """A head on the shared embedding; it makes one column."""

    Config = HeadConfig
    reads_clip = True
    kind: ClassVar[HeadKind]

    def __init__(self, head: ScoreHead) -> None:
        self._head = head

    @classmethod
    def open(
        cls, config: HeadConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        assert clip is not None
        head = load_head(config, kind=cls.kind, embed_dim=clip.embed_dim, where=where)
        return cls(head.to(device))

    @classmethod
    def check(cls, config: HeadConfig, *, embed_dim: int | None, where: str) -> None:
        if embed_dim is not None:
            load_head(config, kind=cls.kind, embed_dim=embed_dim, where=where)

    @property
    def weights_sha256(self) -> str:
        return weights_sha256(self._head)

    def score(self, batch: ScoreBatch) -> Mapping[str, Scores]:
        return {self.columns[0].name: Scores(self._head(batch.embeddings).float())}


class AestheticV1(HeadScorer):
    """LAION's first aesthetic predictor, about 0 to 10."""

    kind = "aesthetic"
    columns = (pa.field("aesthetic_v1", pa.float32()),)


class AestheticV2(HeadScorer):
    """LAION's improved aesthetic predictor, about 0 to 10."""

    kind = "aesthetic"
    columns = (pa.field("aesthetic_v2", pa.float32()),)


class Nsfw(HeadScorer):
    """The probability that an image is not safe for work."""

    kind = "nsfw"
    columns = (pa.field("punsafe", pa.float32()),)


class Watermark(HeadScorer):
    """The probability of a watermark, by a head of the NSFW head's form."""

    kind = "nsfw"
    columns = (pa.field("pwatermark", pa.float32()),)


@loads_weights
def load_head(config: HeadConfig, *, kind: HeadKind, embed_dim: int, where: str) -> ScoreHead:
    """Load a head and check that it was made for embeddings of this length.

    Args:
        config: Where its weights are.
        kind: What is expected of it.
        embed_dim: The CLIP's embedding length.
        where: The configuration key, for errors (`score.aesthetic_v1`).

    Raises:
        WeightsError: the file cannot be had or read, is not such a head, or has another length.
    """
    path = resolve_weights(config.weights, sha256=config.sha256, where=f"{where}.weights")
    tensors = _read_tensors(path, where)
    try:
        head = ScoreHead(tensors, kind)
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{where}: {path} is not a head of kind {kind}: {error}") from error
    if head.embed_dim != embed_dim:
        raise WeightsError(
            f"{where}: {path} scores embeddings of length {head.embed_dim}, but the CLIP gives "
            f"{embed_dim}; use the head made for this CLIP, or the CLIP it was made for"
        )
    return place_module(head, device="cpu")


def _read_tensors(path: Path, where: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        if path.suffix in (".pth", ".pt", ".bin"):
            state = torch.load(path, weights_only=True, map_location="cpu")
            return {name: tensor for name, tensor in state.items() if torch.is_tensor(tensor)}
    except Exception as error:  # each reader raises its own
        first, *_ = str(error).splitlines() or [""]  # torch goes on about itself
        raise WeightsError(f"{where}: {path} cannot be read: {first}") from error
    raise WeightsError(f"{where}: {path} must end in .safetensors, .npz or .pth")


def _linear_layers(tensors: Mapping[str, Tensor]) -> list[nn.Linear]:
    """Build the layers from `<prefix>weight` and `<prefix>bias` pairs in natural order."""
    prefixes = sorted(
        (name.removesuffix("weight") for name in tensors if name.endswith("weight")),
        key=lambda prefix: [int(number) for number in re.findall(r"\d+", prefix)],
    )
    layers = []
    width = None
    for prefix in prefixes:
        weight, bias = tensors[f"{prefix}weight"].float(), tensors[f"{prefix}bias"].float()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(f"{prefix}weight of shape {tuple(weight.shape)} is no linear layer")
        if width is not None and weight.shape[1] != width:
            raise ValueError(f"{prefix}weight takes {weight.shape[1]} values, it gets {width}")
        layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
        layers.append(layer)
        width = weight.shape[0]
    if width != 1:
        raise ValueError(f"its last layer gives {width} values, not one score")
    return layers
