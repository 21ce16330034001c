"""A model folder's own scheduler is what samples: its class, its spacing, its every setting."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pytest

from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.model.noise_schedule import (
    NoiseSchedule,
    build_noise_schedule,
    noise_schedule_of_scheduler,
)
from sd_core.model.settings_check import SettingsError
from sd_core.model.text_conditioning import encode_conditioning
from sd_core.model.weights import WeightsError
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.samplers import SamplerName, build_sampler, sampler_of_folder
from sd_core.sampling.text_to_image import generate_images
from tests import diffusion_cases

pytestmark = pytest.mark.filterwarnings("ignore:The configuration file of this scheduler")
SEEDS = [5, 6]
PROMPTS = ["a red circle", "two green stars"]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MULTISTEP = "DPMSolverMultistepScheduler"

CASES: list[tuple[str, dict[str, Any], SamplerName]] = [
    ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}, "ddim"),
    ("DDIMScheduler", {"timestep_spacing": "linspace", "set_alpha_to_one": False}, "ddim"),
    ("DDIMScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, "ddim"),
    ("DDPMScheduler", {"timestep_spacing": "trailing", "variance_type": "fixed_large"}, "ddpm"),
    ("DDPMScheduler", {"clip_sample": False}, "ddpm"),
    ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "trailing"}, "pndm"),
    ("PNDMScheduler", {"skip_prk_steps": False, "steps_offset": 1}, "pndm"),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "euler"),
    ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}, "euler"),
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, "euler"),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, "euler"),
    ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}, "euler"),
    ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, "euler_a"),
    ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "linspace"}, "euler_a"),
    ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}, "heun"),
    ("HeunDiscreteScheduler", {"timestep_spacing": "linspace"}, "heun"),
    (MULTISTEP, {"timestep_spacing": "trailing"}, "dpmpp_2m"),
    (MULTISTEP, {"solver_order": 3, "euler_at_final": True}, "dpmpp_2m"),
    (MULTISTEP, {"use_karras_sigmas": True, "solver_type": "heun"}, "dpmpp_2m_karras"),
    (MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde"),
    (
        MULTISTEP,
        {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
        "dpmpp_2m_sde_karras",
    ),
    ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, "dpmpp_2s"),
    ("UniPCMultistepScheduler", {"timestep_spacing": "trailing", "solver_order": 3}, "unipc"),
    ("UniPCMultistepScheduler", {"disable_corrector": [0]}, "unipc"),
    ("LCMScheduler", {"original_inference_steps": 40, "timestep_scaling": 5.0}, "lcm"),
]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options, _ in CASES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusion_cases.diffusers_folder(tmp_path_factory.mktemp("models") / "theirs")


def scheduler_of(name: str, options: Mapping[str, Any]) -> Any:
    return getattr(diffusers, name)(**BETAS, **options)


def schedule_of(scheduler: Mapping[str, Any]) -> NoiseSchedule:
    config = noise_schedule_of_scheduler(scheduler, where="s")
    return build_noise_schedule(config, scheduler=scheduler)


def with_scheduler(folder: Path, scheduler: Any) -> Path:
    """The folder with another scheduler, as diffusers itself saves it."""
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def load(folder: Path) -> LatentDiffusion:
    return load_latent_diffusion(LatentDiffusionConfig(model=str(folder)), device="cpu")


def of_ours(model: LatentDiffusion, **options: Any) -> npt.NDArray[np.uint8]:
    generators = row_generators(SEEDS)
    arguments: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0, **options}
    return generate_images(
        model,
        conditioning=encode_conditioning(model, PROMPTS),
        unconditional=encode_conditioning(model, [""]),
        noise=initial_noise(generators, shape=model.latents_shape),
        sampler=sampler_of_folder(model.noise_schedule),
        generators=generators,
        **arguments,
    ).numpy()


def of_diffusers(pipeline: Any, **options: Any) -> npt.NDArray[np.uint8]:
    pipeline.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0, **options}
    made = pipeline(PROMPTS, generator=row_generators(SEEDS), output_type="pil", **arguments)
    return np.stack([np.asarray(picture) for picture in made.images])


def furthest(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> int:
    assert ours.shape == theirs.shape
    assert ours.std() > 5, "an empty picture compares nothing"
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize(("name", "options", "sampler"), CASES, ids=IDS)
def test_a_folders_scheduler_gives_what_its_own_pipeline_gives(
    folder: Path, name: str, options: dict[str, Any], sampler: SamplerName
) -> None:
    with_scheduler(folder, scheduler_of(name, options))
    model = load(folder)
    assert sampler_of_folder(model.noise_schedule) == sampler
    family: Any = diffusers.StableDiffusionPipeline
    pipeline = family.from_pretrained(folder, safety_checker=None)
    assert type(pipeline.scheduler).__name__ == name
    assert furthest(of_ours(model), of_diffusers(pipeline)) <= 1


@pytest.mark.parametrize(("name", "options", "sampler"), CASES, ids=IDS)
def test_a_folders_scheduler_is_saved_as_it_was(
    name: str, options: dict[str, Any], sampler: SamplerName
) -> None:
    said = json.loads(scheduler_of(name, options).to_json_string())
    schedule = schedule_of(said)
    assert dict(schedule.scheduler or {}) == said
    assert dict(build_sampler(sampler, schedule).config).items() >= options.items()


def test_load_save_load_keeps_scheduler_and_index(tmp_path: Path) -> None:
    theirs = diffusion_cases.diffusers_xl_folder(tmp_path / "theirs")
    options = {"timestep_spacing": "trailing", "use_karras_sigmas": True}
    with_scheduler(theirs, scheduler_of("EulerDiscreteScheduler", options))
    first = load(theirs)
    assert first.zeros_for_empty_prompt
    save_latent_diffusion(first, tmp_path / "ours")
    second = load(tmp_path / "ours")
    written = ("scheduler/scheduler_config.json", "model_index.json")
    for name in written:
        ours = json.loads((tmp_path / "ours" / name).read_text())
        expected = json.loads((theirs / name).read_text())
        assert {k: v for k, v in ours.items() if v != [None, None]} == {
            k: v for k, v in expected.items() if v != [None, None]
        }
    assert second.noise_schedule.config == first.noise_schedule.config
    assert second.noise_schedule.scheduler == first.noise_schedule.scheduler
    assert second.zeros_for_empty_prompt == first.zeros_for_empty_prompt


def test_the_index_names_the_class_as_it_does_for_diffusers(folder: Path) -> None:
    with_scheduler(folder, scheduler_of("DDIMScheduler", {"clip_sample": False}))
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "scheduler": ["diffusers", "LCMScheduler"]}))
    assert sampler_of_folder(load(folder).noise_schedule) == "lcm"


def test_another_sampler_by_name_is_set_up_from_the_folder() -> None:
    said = {"_class_name": "DDIMScheduler", **BETAS, "timestep_spacing": "trailing"}
    for name in ("euler", "dpmpp_2m", "unipc", "heun", "pndm", "ddpm"):
        sampler = build_sampler(name, schedule_of(said))  # type: ignore[arg-type]
        sampler.set_timesteps(4)
        assert float(sampler.timesteps[0]) == 999, name


def test_a_name_says_karras_whatever_the_folder_says() -> None:
    said = {"_class_name": MULTISTEP, **BETAS, "use_karras_sigmas": True}
    schedule = schedule_of(said)
    assert sampler_of_folder(schedule) == "dpmpp_2m_karras"
    assert not build_sampler("dpmpp_2m", schedule).config.use_karras_sigmas


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"_class_name": "TCDScheduler"}, "_class_name is 'TCDScheduler'.*name one.*: ddim, "),
        ({"_class_name": MULTISTEP, "algorithm_type": "dpmsolver"}, "algorithm_type 'dpmsolver'"),
    ],
)
def test_a_scheduler_that_no_sampler_is_the_same_as_is_refused(
    scheduler: dict[str, Any], message: str
) -> None:
    schedule = schedule_of({**BETAS, **scheduler})
    with pytest.raises(SettingsError, match=message):
        sampler_of_folder(schedule)
    build_sampler("dpmpp_2m", schedule)  # by name it goes


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler says nothing of beta_start"),
        ({"_class_name": "EulerDiscreteScheduler", "sigma_data": 0.5}, "sigma_data is 0.5, a key"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type"),
        (
            {"_class_name": "DDIMScheduler", "timestep_spacing": "even"},
            "timestep_spacing is 'even'",
        ),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, "variance_type is"),
        ({"_class_name": MULTISTEP, "use_flow_sigmas": True}, "use_flow_sigmas is true"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True},
            "stochastic_sampling is True; allowed: False",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas is True; allowed: False",
        ),
    ],
)
def test_what_a_scheduler_says_and_is_not_honoured_is_named(
    scheduler: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        schedule_of(scheduler)


@pytest.mark.parametrize("scale", [1.0, 6.5])
def test_guidance_as_an_input_gives_what_the_lcm_pipeline_gives(
    tmp_path: Path, scale: float
) -> None:
    folder = diffusion_cases.diffusers_folder(tmp_path / "lcm", time_cond_proj_dim=16)
    with_scheduler(folder, scheduler_of("LCMScheduler", {}))
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "_class_name": "LatentConsistencyModelPipeline"}))
    model = load(folder)
    family: Any = diffusers.LatentConsistencyModelPipeline
    pipeline = family.from_pretrained(folder, safety_checker=None)
    ours = of_ours(model, guidance_scale=scale)
    assert furthest(ours, of_diffusers(pipeline, guidance_scale=scale)) <= 1
    other = of_ours(model, guidance_scale=scale + 3)
    assert not np.array_equal(other, ours)
