"""What a LoRA file holds: pairs of matrices, each for one layer; all of it, or an error.

Known are kohya's names (`lora_unet_...lora_down.weight`), diffusers' (`unet....lora_A.weight` and
its older ones) and peft's own folder (`adapter_model.safetensors` with `adapter_config.json`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from sd_core.model.lora_settings import AdapterSettings, adapter_settings
from sd_core.model.settings_check import SettingsError
from sd_core.model.weight_files import read_object
from sd_core.model.weights import WeightsError
from sd_core.plain_json import parse_json

_ADAPTER_FILE: Final = "adapter_model.safetensors"
_ADAPTER_CONFIG: Final = "adapter_config.json"
_METADATA: Final = "lora_adapter_metadata"
_PEFT_PREFIX: Final = "base_model.model."
PARTS: Final = ("unet", "text_encoder", "text_encoder_2")

_ENDS: Final[tuple[tuple[str, str], ...]] = (
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_A.default.weight", "down"),
    (".lora_B.default.weight", "up"),
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
    ("_lora.down.weight", "down"),
    ("_lora.up.weight", "up"),
    (".lora_linear_layer.down.weight", "down"),
    (".lora_linear_layer.up.weight", "up"),
    (".lora_magnitude_vector.default.weight", "magnitude"),
    (".lora_magnitude_vector.weight", "magnitude"),
    (".lora_magnitude_vector", "magnitude"),
    (".alpha", "alpha"),
)
_OTHER_FORMS: Final[Mapping[str, str]] = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "a LoCon with a core (lora_mid)",
    "dora_scale": "DoRA in LyCORIS's form (peft's lora_magnitude_vector is read)",
    "oft_": "OFT",
    "on_input": "IA3",
    ".diff": "a whole difference of weights",
    "bundle_emb": "a textual inversion",
    "lora_bias": "a LoRA of biases",
    "lora_B.bias": "a LoRA of biases",
    "lora_embedding": "a LoRA of embeddings",
}


@dataclass(frozen=True, kw_only=True)
class LoraPair:
    """The two matrices of one layer.

    Attributes:
        name: What the file's keys of this layer begin with.
        keys: The file's own, for errors.
        part: The model's part where the file names it, else None.
        down: (R, I) or (R, I, kh, kw).
        up: (O, R) or (O, R, 1, 1).
        alpha: The change counts alpha / R; None means R.
        magnitude: (O,) of DoRA.
    """

    name: str
    part: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: Tensor | None = None
    magnitude: Tensor | None = None
    settings: AdapterSettings | None = None


def read_lora(path: Path, *, where: str) -> list[LoraPair]:
    """Read a .safetensors file, or a folder that peft wrote.

    Raises:
        WeightsError: it is neither, cannot be read, or is another form of adapter.
        SettingsError: a tensor is no part of a pair, or half of a pair is missing.
    """
    if not path.is_dir():
        return _read_file(
            path, part=None, settings=_settings_beside(path, where=where), where=where
        )
    folders = {part: path / part for part in PARTS if (path / part / _ADAPTER_FILE).is_file()}
    if (path / _ADAPTER_FILE).is_file():
        folders = {"": path}
    if not folders:
        raise WeightsError(
            f"{where}: {path} holds no {_ADAPTER_FILE}, nor do its folders {', '.join(PARTS)}; "
            "name a .safetensors file or peft's folder"
        )
    pairs: list[LoraPair] = []
    for part, folder in folders.items():
        file = folder / _ADAPTER_FILE
        settings = _settings_beside(file, where=where)
        pairs += _read_file(file, part=part or None, settings=settings, where=where)
    return pairs


def _read_file(
    path: Path, *, part: str | None, settings: AdapterSettings | None, where: str
) -> list[LoraPair]:
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise WeightsError(f"{where}: {path.name} is no .safetensors file; others may run code")
    try:
        with safe_open(path, framework="pt") as stream:
            tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
            noted = parse_json((stream.metadata() or {}).get(_METADATA) or "{}")
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{where}: {path} cannot be read: {error}") from error
    told = f"{where}: {path.name}"
    pairs = [
        replace(pair, part=pair.part or part, settings=settings or _noted(pair, noted, where=told))
        for pair in _pairs(tensors, where=told)
    ]
    if not pairs:
        raise SettingsError(f"{told}: holds no LoRA at all ({len(tensors)} tensors)")
    return pairs


def _pairs(tensors: Mapping[str, Tensor], *, where: str) -> Iterator[LoraPair]:
    found: dict[str, LoraPair] = {}
    for key in sorted(tensors):
        name, role = _name_and_role(key, where=where)
        pair = found.setdefault(name, LoraPair(name=name, part=_part_of(name)))
        if getattr(pair, role) is not None:
            raise SettingsError(f"{where}: {key} and {pair.keys[role]} say the same twice")
        keys = {**pair.keys, role: key}
        half: dict[str, Any] = {role: tensors[key].detach()}
        found[name] = replace(pair, keys=keys, **half)
    for pair in found.values():
        _check_pair(pair, where=where)
        yield pair


def _name_and_role(key: str, *, where: str) -> tuple[str, str]:
    for end, role in _ENDS:
        if key.endswith(end):
            return key[: -len(end)].removeprefix(_PEFT_PREFIX), role
    for mark, form in _OTHER_FORMS.items():
        if mark in key:
            raise SettingsError(
                f"{where}: {key} is of {form}, which is not applied; allowed: LoRA, and DoRA as "
                "peft saves it; convert the file, or leave it out"
            )
    raise SettingsError(
        f"{where}: {key} is no part of a LoRA; allowed: pairs of lora_down and lora_up (or lora_A "
        "and lora_B) with their alpha"
    )


def _check_pair(pair: LoraPair, *, where: str) -> None:
    """Both halves, of one rank, and numbers."""
    for role in ("down", "up"):
        if getattr(pair, role) is None:
            one = next(iter(pair.keys.values()))
            raise SettingsError(
                f"{where}: {one}: the file lacks the {role} half of {pair.name}; a LoRA needs both "
                "(lora_down and lora_up, or lora_A and lora_B): the file is damaged"
            )
    assert pair.down is not None
    assert pair.up is not None
    if pair.up.ndim < 2 or pair.down.ndim < 2 or pair.up.shape[1] != pair.down.shape[0]:
        raise SettingsError(
            f"{where}: {pair.keys['down']} is {tuple(pair.down.shape)} and {pair.keys['up']} is "
            f"{tuple(pair.up.shape)}: they are of different ranks"
        )
    for role, key in pair.keys.items():
        if not bool(getattr(pair, role).float().isfinite().all()):
            raise SettingsError(f"{where}: {key} holds numbers that are not finite")
    if pair.alpha is not None and pair.alpha.numel() != 1:
        raise SettingsError(f"{where}: {pair.keys['alpha']} is no single number")


def _part_of(name: str) -> str | None:
    """The part that a name begins with; None where it names none."""
    for part, prefixes in _PREFIXES.items():
        if name.startswith(prefixes):
            return part
    return None


_PREFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "text_encoder_2": ("lora_te2_", "text_encoder_2."),
    "text_encoder": ("lora_te_", "lora_te1_", "text_encoder."),
    "unet": ("lora_unet_", "unet.", "transformer."),
}


def _settings_beside(path: Path, *, where: str) -> AdapterSettings | None:
    """Of peft's `adapter_config.json`, which only its own file's name goes with."""
    config = path.parent / _ADAPTER_CONFIG
    if path.name != _ADAPTER_FILE:
        return None
    if not config.is_file():
        raise WeightsError(
            f"{where}: {path} has no {_ADAPTER_CONFIG} beside it, which tells its alpha; copy it "
            "from where the adapter was trained"
        )
    return adapter_settings(read_object(config, where=where), where=f"{where}: {config}")


def _noted(pair: LoraPair, noted: Mapping[str, Any], *, where: str) -> AdapterSettings | None:
    """What diffusers writes into a file's header: the settings by part."""
    prefix = f"{pair.part or 'unet'}."
    own = {name.removeprefix(prefix): v for name, v in noted.items() if name.startswith(prefix)}
    return adapter_settings(own, where=f"{where}: {_METADATA}") if own else None
