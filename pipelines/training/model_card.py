"""The card of a trained model: what it was made of, in words and figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.training.config import TrainConfig
from pipelines.versions import describe_program
from pipelines.yaml_text import dump_yaml
from sd_core.model.weights import digest_file

_HEADER = """---
library_name: diffusers
pipeline_tag: text-to-image
tags: [latent-diffusion, latent-foundry]
---
# A latent diffusion model trained with Latent Foundry
"""


def write_card(
    config: TrainConfig, *, data: Sequence[Mapping[str, object]], steps: int, folder: Path
) -> str:
    """Markdown with Hugging Face's header: data, steps, configuration, digests of the weights."""
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
            _HEADER,
            f"{steps:,} steps of {config.loop.batch_size} samples. "
            + (f"The weights are averages of decay {averaged}." if averaged else ""),
            "\n## Data\n\n| cache | rows | share | digest |\n|---|---|---|---|",
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


def public_config(config: TrainConfig) -> Mapping[str, object]:
    """The resolved configuration without secrets."""
    from pipelines.redact import redact_config

    return redact_config(config.model_dump(mode="json"))
