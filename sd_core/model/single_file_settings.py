"""What a single-file checkpoint says of how it samples, in marks among its tensors and in its
metadata (`modelspec`, which trainers write)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from sd_core.model.noise_schedule import NoiseScheduleConfig, PredictionType, build_noise_schedule
from sd_core.model.settings_check import SettingsError
from sd_core.model.single_file import open_single_file

_PARTS: Final = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
    "model_ema.",
)
_V_MARK, _ZERO_SNR_MARK, _ALPHAS = "v_pred", "ztsnr", "alphas_cumprod"
_DERIVED: Final = frozenset(
    {
        "betas",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "lvlb_weights",
        "logvar",
        "denoiser.sigmas",
        "model.logvar",
    }
)
"""Tables that the original code computes of the schedule, or learns for its loss alone."""
_PREDICTIONS: Final[dict[str, PredictionType]] = {
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
}
_ENCODER_LAYERS: Final = {"sd-v1": "1", "sd-v2": "2", "sd-xl": "2"}


@dataclass(frozen=True, kw_only=True)
class FileSchedule:
    """What the file says; None and false where it says nothing."""

    prediction_type: PredictionType | None
    is_zero_snr: bool


def schedule_of_file(path: Path, *, where: str) -> FileSchedule:
    """Read the marks `v_pred` and `ztsnr`, a stored schedule, and `modelspec.prediction_type`.

    Raises:
        SettingsError: what is said is not known, or contradicts itself.
    """
    with open_single_file(path, where=where) as stream:
        names = set(stream.keys())
        metadata: dict[str, str] = dict(stream.metadata() or {})
        alphas = stream.get_tensor(_ALPHAS) if _ALPHAS in names else None
    marked: PredictionType | None = "v_prediction" if _V_MARK in names else None
    noted = _noted_prediction(path, metadata, where=where)
    if marked is not None and noted is not None and marked != noted:
        raise SettingsError(
            f"{where}: {path}: the tensor {_V_MARK} says v_prediction and its metadata's "
            f"modelspec.prediction_type says {noted}; set noise_schedule.prediction_type yourself"
        )
    found = FileSchedule(prediction_type=marked or noted, is_zero_snr=_ZERO_SNR_MARK in names)
    if found.is_zero_snr and found.prediction_type != "v_prediction":
        raise SettingsError(
            f"{where}: {path}: the tensor {_ZERO_SNR_MARK} says that the last timestep is noise "
            f"alone, and nothing says that the model predicts v; set noise_schedule yourself"
        )
    _check_alphas(path, alphas, found, where=where)
    return found


def agreed_schedule(
    layout: NoiseScheduleConfig, said: FileSchedule, path: Path, *, where: str
) -> NoiseScheduleConfig:
    """The layout's schedule, unless the file says otherwise: then a `SettingsError`."""
    faults = []
    if said.prediction_type not in (None, layout.prediction_type):
        faults.append(f"prediction_type {said.prediction_type}, not {layout.prediction_type}")
    if said.is_zero_snr and not layout.rescale_betas_zero_snr:
        faults.append("zero terminal SNR (ztsnr)")
    if faults:
        raise SettingsError(
            f"{where}: {path} says {' and '.join(faults)}, and the layout's scheduler says "
            "otherwise; set noise_schedule yourself"
        )
    return layout


def check_file_tensors(path: Path, *, where: str) -> None:
    """Raises `SettingsError` where a tensor belongs to no part of the model."""
    with open_single_file(path, where=where) as stream:
        names = set(stream.keys())
    known = {_V_MARK, _ZERO_SNR_MARK, _ALPHAS} | _DERIVED
    unknown = sorted(n for n in names if not n.startswith(_PARTS) and n not in known)
    if unknown:
        raise SettingsError(
            f"{where}: {path}: {len(unknown)} tensors belong to no part of Stable Diffusion, "
            f"{unknown[0]} for one: the file says something that is not honoured; use a diffusers "
            "folder of the model"
        )


def check_encoder_layer(path: Path, layout: str, *, where: str) -> None:
    """Refuse a file trained on another of the text encoder's layers than the one that is taken.

    `modelspec.encoder_layer` counts from the last; a layout of its own may cut the encoder.
    """
    with open_single_file(path, where=where) as stream:
        found = (stream.metadata() or {}).get("modelspec.encoder_layer")
    if found is not None and str(found) != _ENCODER_LAYERS[layout]:
        raise SettingsError(
            f"{where}: {path}: modelspec.encoder_layer is {found!r} (clip skip); allowed: "
            f"{_ENCODER_LAYERS[layout]!r} for {layout}; name as `layout` a diffusers folder whose "
            "text encoder ends with that layer (num_hidden_layers)"
        )


def _noted_prediction(path: Path, metadata: dict[str, str], *, where: str) -> PredictionType | None:
    noted = metadata.get("modelspec.prediction_type")
    if noted is not None and noted not in _PREDICTIONS:
        raise SettingsError(
            f"{where}: {path}: modelspec.prediction_type is {noted!r}; allowed: "
            f"{', '.join(_PREDICTIONS)}"
        )
    return None if noted is None else _PREDICTIONS[noted]


def _check_alphas(path: Path, alphas: Any, said: FileSchedule, *, where: str) -> None:
    """A stored schedule must be the one that is taken, to float16's precision."""
    if alphas is None:
        return
    taken = build_noise_schedule(
        NoiseScheduleConfig(
            prediction_type=said.prediction_type or "epsilon",
            rescale_betas_zero_snr=said.is_zero_snr,
        )
    ).alphas_cumprod
    if alphas.shape != taken.shape or not torch.allclose(alphas.float(), taken, atol=2e-3):
        raise SettingsError(
            f"{where}: {path}: its table {_ALPHAS} is not Stable Diffusion's; set noise_schedule "
            "to what the model was trained with"
        )
