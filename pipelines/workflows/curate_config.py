"""Everything `jobs/curate.py` can be told; one section for each part of the job."""

from collections.abc import Iterator
from typing import Self

from pydantic import model_validator

from pipelines.plan import PlanConfig
from pipelines.rules.before_fetch import BeforeFetch
from pipelines.rules.block_lists import BlockConfig
from pipelines.rules.old_keys import RulesConfig, old_rules, say_instead
from pipelines.sources import SourceConfig
from pipelines.steps.download.config import DownloadConfig
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.encode import EncodeConfig
from pipelines.steps.select.recaptions import CaptionFiles, CaptionsConfig
from pipelines.workflows.job_config import JobConfig, ModelSection


class CurateConfig(JobConfig):
    """Everything `jobs/curate.py` can be told; one section for each part of the job."""

    origin = "download"

    source: SourceConfig
    plan: PlanConfig = PlanConfig()
    rules: RulesConfig = RulesConfig()
    """An old key; `download.rules` takes them now."""
    block: BlockConfig = BlockConfig()
    """An old key; a rule of `download.rules` now."""
    download: DownloadConfig = DownloadConfig()
    image: ImageConfig = ImageConfig()
    captions: CaptionsConfig | None = None
    """Null: the list's own are trained on."""
    encode: EncodeConfig | None = None
    """Null: no latent cache."""

    @model_validator(mode="after")
    def _latents_have_whole_sizes(self) -> Self:
        sides = [side for size in self.image.sizes for side in (size.width, size.height)]
        odd = next((side for side in sides if side % 4), None)
        if self.encode is not None and odd is not None:
            raise ValueError(
                f"image.{'buckets' if self.image.buckets else 'size'}: {odd} has no latent of a "
                "whole size; give a multiple of the autoencoder's down-sampling (8 for Stable "
                "Diffusion's)"
            )
        return self

    @property
    def before_fetch(self) -> BeforeFetch:
        """The rules before the fetch, under whichever keys they are written."""
        old = old_rules(self.rules, self.block)
        new = tuple((f"download.rules.{at}", rule) for at, rule in enumerate(self.download.rules))
        return BeforeFetch(
            rules=old or new,
            storage_options=self.source.storage_options,
            old=None if new else self.rules,
        )

    @property
    def caption_files(self) -> CaptionFiles | None:
        """The captions from elsewhere; None where there are none."""
        if self.captions is None:
            return None
        return CaptionFiles(config=self.captions, storage_options=self.storage_options)

    def old_keys(self) -> Iterator[str]:
        rules, block = old_rules(self.rules, BlockConfig()), old_rules(RulesConfig(), self.block)
        for key, found in (("rules", rules), ("block", block)):
            if found:
                yield say_instead(key, "download.rules", found)
        yield from super().old_keys()

    @model_validator(mode="after")
    def _rules_have_one_key(self) -> Self:
        given = {"rules": self.rules != RulesConfig(), "block": self.block != BlockConfig()}
        old = [key for key, is_given in given.items() if is_given]
        if old and self.download.rules:
            raise ValueError(
                f"{' and '.join(old)} beside download.rules: old keys and the new one for the same "
                "thing; write all of it in download.rules"
            )
        return self

    def optional_steps(self) -> dict[str, object | None]:
        return {"score": self.score, "encode": self.encode}

    def model_sections(self) -> dict[str, ModelSection | None]:
        return {"score": self.score, "encode": self.encode}
