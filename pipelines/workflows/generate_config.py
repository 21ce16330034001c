"""Everything `jobs/generate.py` can be told; one section for each part of the job."""

from pipelines.prompts import PromptPlanConfig, PromptsConfig
from pipelines.steps.generate import GenerateConfig
from pipelines.workflows.job_config import JobConfig, ModelSection


class GenerateJobConfig(JobConfig):
    """Everything `jobs/generate.py` can be told; one section for each part of the job."""

    origin = "generate"

    prompts: PromptsConfig
    plan: PromptPlanConfig = PromptPlanConfig()
    generate: GenerateConfig

    def optional_steps(self) -> dict[str, object | None]:
        return {"score": self.score, "encode": self.generate.latents}

    def model_sections(self) -> dict[str, ModelSection | None]:
        return {"generate": self.generate, "score": self.score}
