"""Which keys of peft's `adapter_config.json` are honoured; see `settings_check`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sd_core.model.settings_check import Decisions, Limited, check_settings

_TRAINING: Final = "of training alone"
_NAMES: Final = "the file's own keys tell which layers are changed"
_PLAIN: Final = "only plain LoRA, rank-stabilised LoRA and DoRA are applied"

ADAPTER_DECISIONS: Final = Decisions(
    honoured=frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}),
    harmless={
        "task_type": "a note",
        "auto_mapping": "a note",
        "peft_version": "a note",
        "base_model_name_or_path": "a note; the shapes are held against the model's",
        "revision": "a note",
        "runtime_config": "a note",
        "inference_mode": _TRAINING,
        "lora_dropout": _TRAINING,
        "megatron_core": _TRAINING,
        "ensure_weight_tying": _TRAINING,
        "qalora_group_size": "only of use_qalora, which is refused",
        "target_modules": _NAMES,
        "exclude_modules": _NAMES,
        "layers_to_transform": _NAMES,
        "layers_pattern": _NAMES,
        "use_dora": "the file's magnitude vectors tell",
    },
    limited={
        "peft_type": Limited(allowed=(None, "LORA"), why=_PLAIN),
        "fan_in_fan_out": Limited(allowed=(False,), why="weights are (out, in)"),
        "bias": Limited(allowed=("none",), why="biases stay as they are"),
        "lora_bias": Limited(allowed=(False,), why="biases stay as they are"),
        "modules_to_save": Limited(allowed=(None, []), why="whole layers are not replaced"),
        "init_lora_weights": Limited(
            allowed=(True, False, "gaussian", "orthogonal"),
            why="any other changes the model's own weights before training",
        ),
        "trainable_token_indices": Limited(allowed=(None,), why="tokens stay as they are"),
        "loftq_config": Limited(allowed=(None, {}), why=_PLAIN),
        "eva_config": Limited(allowed=(None,), why=_PLAIN),
        "corda_config": Limited(allowed=(None,), why=_PLAIN),
        "lora_ga_config": Limited(allowed=(None,), why=_PLAIN),
        "velora_config": Limited(allowed=(None,), why=_PLAIN),
        "monteclora_config": Limited(allowed=(None,), why=_PLAIN),
        "kasa_config": Limited(allowed=(None,), why=_PLAIN),
        "arrow_config": Limited(allowed=(None,), why=_PLAIN),
        "megatron_config": Limited(allowed=(None,), why=_PLAIN),
        "alora_invocation_tokens": Limited(allowed=(None,), why=_PLAIN),
        "use_qalora": Limited(allowed=(False,), why=_PLAIN),
        "use_bdlora": Limited(allowed=(None, False), why=_PLAIN),
        "layer_replication": Limited(allowed=(None,), why="the model keeps its layers"),
        "target_parameters": Limited(allowed=(None, []), why="only layers are changed"),
    },
)


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """How much an adapter's layers count, by peft's rules.

    Attributes:
        ranks: By pattern of a layer's name, where it is not `rank`; `alphas` likewise.
        is_rank_stabilised: The change counts alpha / sqrt(rank), not alpha / rank.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilised: bool = False

    def rank_of(self, layer: str) -> int:
        """The rank that a layer is said to have."""
        return int(_by_pattern(self.ranks, layer, self.rank))

    def scaling_of(self, layer: str) -> float:
        """What the layer's product of matrices is multiplied with."""
        rank, alpha = self.rank_of(layer), float(_by_pattern(self.alphas, layer, self.alpha))
        return alpha / (rank**0.5 if self.is_rank_stabilised else rank)


def adapter_settings(content: Mapping[str, Any], *, where: str) -> AdapterSettings:
    """Read peft's settings.

    Raises:
        SettingsError: they say what is not honoured.
    """
    check_settings(content, ADAPTER_DECISIONS, where=where)
    rank = int(content.get("r", 8))
    return AdapterSettings(
        rank=rank,
        alpha=float(content.get("lora_alpha", 8)),
        ranks=dict(content.get("rank_pattern") or {}),
        alphas=dict(content.get("alpha_pattern") or {}),
        is_rank_stabilised=bool(content.get("use_rslora", False)),
    )


def _by_pattern(patterns: Mapping[str, float], layer: str, otherwise: float) -> float:
    """peft's rule: the first pattern that the end of the name matches from a dot on."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", layer):
            return value
    return otherwise
