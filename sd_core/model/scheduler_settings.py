"""Which keys of a `scheduler_config.json` are honoured; see `settings_check`.

A key means the same in each of diffusers' schedulers, and a file may hold keys of others than its
own class: they come to count where another sampler is asked for by name.
"""

from collections.abc import Mapping
from typing import Any, Final

from sd_core.model.settings_check import Decisions, Limited, SettingsError, check_settings

FLOW_PREDICTION: Final = "flow_prediction"
_SHIFTING: Final = "only of use_dynamic_shifting, which is refused"

SCHEDULER_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            "num_train_timesteps",
            "beta_start",
            "beta_end",
            "beta_schedule",
            "prediction_type",
            "rescale_betas_zero_snr",
            "steps_offset",
            "set_alpha_to_one",
            "clip_sample",
            "clip_sample_range",
            "thresholding",
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "skip_prk_steps",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
            "use_lu_lambdas",
            "sigma_min",
            "sigma_max",
            "algorithm_type",
            "solver_order",
            "solver_type",
            "lower_order_final",
            "euler_at_final",
            "lambda_min_clipped",
            "predict_x0",
            "disable_corrector",
            "original_inference_steps",
            "timestep_scaling",
            "flow_shift",
            "shift",
            "shift_terminal",
            "use_flow_sigmas",
        }
    ),
    harmless={
        "base_shift": _SHIFTING,
        "max_shift": _SHIFTING,
        "base_image_seq_len": _SHIFTING,
        "max_image_seq_len": _SHIFTING,
        "time_shift_type": _SHIFTING,
        "tensor_format": "an old note: everything is torch now",
    },
    limited={
        "trained_betas": Limited(
            allowed=(None,), why="the noise follows beta_schedule, beta_start and beta_end"
        ),
        "variance_type": Limited(
            allowed=(None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
            why="a variance that the denoiser predicts is left out",
        ),
        "timestep_spacing": Limited(
            allowed=("leading", "linspace", "trailing"), why="diffusers knows no other"
        ),
        "interpolation_type": Limited(
            allowed=("linear", "log_linear"), why="diffusers knows no other"
        ),
        "final_sigmas_type": Limited(allowed=("zero", "sigma_min"), why="diffusers knows no other"),
        "timestep_type": Limited(
            allowed=("discrete",), why="timesteps are numbers of the schedule, not log sigma"
        ),
        "use_dynamic_shifting": Limited(
            allowed=(False,), why="the shift does not follow the images' size"
        ),
        "invert_sigmas": Limited(allowed=(False,), why="sigmas fall from noise to image"),
        "stochastic_sampling": Limited(
            allowed=(False,), why="its noise would not follow the rows' seeds"
        ),
        "solver_p": Limited(allowed=(None,), why="a solver inside a solver is no setting"),
        "predict_epsilon": Limited(
            allowed=(None, True), why='given up by diffusers; say prediction_type "sample" or so'
        ),
    },
)


def check_scheduler_settings(scheduler: Mapping[str, Any], *, where: str) -> None:
    """Raises `SettingsError` where a scheduler's file says what is not honoured."""
    check_settings(scheduler, SCHEDULER_DECISIONS, where=where)
    is_flow = scheduler.get("prediction_type") == FLOW_PREDICTION
    if scheduler.get("use_flow_sigmas") and not is_flow:
        raise SettingsError(
            f"{where}: use_flow_sigmas is true with prediction_type "
            f"{scheduler.get('prediction_type', 'epsilon')!r}; allowed with {FLOW_PREDICTION!r} "
            "only: take the key out, or name a model whose two settings agree"
        )
