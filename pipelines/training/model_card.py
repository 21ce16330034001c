"""The card of a trained model: what it was made of, in words and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.config import dump_yaml
from pipelines.run.versions import describe_program
from pipelines.training.config import AutoencoderTrainConfig, TrainConfig, TrainingConfig
from sd_core.model.weights import digest_file

_HEADERS = {
    "denoiser": """---
library_name: diffusers
pipeline_tag: text-to-image
tags: [latent-diffusion, latent-foundry]
---
# A latent diffusion model trained with Latent Foundry
""",
    "autoencoder": """---
library_name: diffusers
tags: [autoencoder, latent-foundry]
---
# An autoencoder trained with Latent Foundry
""",
}


def write_model_card(
    config: TrainConfig | AutoencoderTrainConfig,
    *,
    data: Sequence[Mapping[str, object]],
    steps: int,
    folder: Path,
    figures: Mapping[str, float] | None = None,
) -> str:
    """Markdown with Hugging Face's header: data, steps, figures, configuration, digests."""
    rows = [
        f"| {one['path']} | {one['rows']:,} | {one['share']:.1%} | `{str(one['sha256'])[:16]}` |"
        for one in data
    ]
    weights = [
        f"| {path.relative_to(folder).as_posix()} | `{digest_file(path)}` |"
        for path in sorted(folder.rglob("*.safetensors"))
    ]
    averaged = config.loop.ema_decay
    return "\n".join(
        [
            _HEADERS[config.task],
            f"{steps:,} steps of {config.loop.batch_size} samples. "
            + (f"The weights are averages of decay {averaged}." if averaged else ""),
            *(f"- {name}: {value:g}" for name, value in (figures or {}).items()),
            "\n## Data\n\n| data | rows | share | digest |\n|---|---|---|---|",
            *rows,
            "\n## Weights\n\n| file | sha256 |\n|---|---|",
            *weights,
            "\n## Configuration\n\n```yaml",
            dump_yaml(public_config(config)).rstrip(),
            "```\n\n## Versions\n\n```yaml",
            dump_yaml(describe_program()).rstrip(),
            "```\n",
        ]
    )


def public_config(config: TrainingConfig) -> Mapping[str, object]:
    """The resolved configuration without secrets."""
    from pipelines.redact import redact_config

    return redact_config(config.model_dump(mode="json"))
