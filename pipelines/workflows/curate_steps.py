"""From a curate configuration to its steps: what is curate's own."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipelines.plan import Plan
from pipelines.revisions.adopt import adopt_download, reasons_again
from pipelines.run.amendments import Amendments
from pipelines.run.record import read_run
from pipelines.run.shard_inputs import encode_inputs, grouped_shards
from pipelines.run.store import RunStore
from pipelines.sources import Source
from pipelines.steps.download.planned_rows import PlannedRows
from pipelines.steps.download.step import DownloadStep
from pipelines.steps.encode import EncodeStep
from pipelines.steps.kinds import STEP_KINDS
from pipelines.steps.select.recaptions import CaptionFiles
from pipelines.steps.step import Resources, ShardStep
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.run_steps import RunSteps
from sd_core.model.caption_tokenizer import CaptionTokenizer, load_caption_tokenizer

# Options that change how fast a result is there, and not the result.
_PACE_OF_DOWNLOAD = {"threads", "max_per_host", "backoff_s", "connect_timeout_s"}
_NOT_OF_THE_FETCH = {"rules"} | _PACE_OF_DOWNLOAD


class CurateSteps(RunSteps):
    """The steps of one curated run.

    Raises:
        WeightsError: encode's tokenizer cannot be had.
    """

    config: CurateConfig
    plan: Plan

    def __init__(
        self,
        config: CurateConfig,
        store: RunStore,
        source: Source,
        plan: Plan,
        *,
        amendments: Amendments | None = None,
    ) -> None:
        config = config.model_copy(update={"image": config.image.of_run(_recorded_image(store))})
        self.rows = PlannedRows(store, source, config.before_fetch)
        encode = config.encode
        self._tokenizer = None if encode is None else load_caption_tokenizer(encode.text_encoder)
        super().__init__(config, store, plan, amendments=amendments)

    @property
    def token_counter(self) -> CaptionTokenizer | None:
        """Encode's tokenizer."""
        return self._tokenizer

    @cached_property
    def captions(self) -> CaptionFiles | None:
        return self.config.caption_files

    @property
    def cache_sizes(self) -> Sequence[tuple[int, int]]:
        """Of the crops, where there is a cache."""
        sizes = self.config.image.sizes
        return () if self.config.encode is None else [(one.width, one.height) for one in sizes]

    def num_shards(self, step: str) -> int:
        """Latent shards hold the kept rows of several."""
        if step != "encode" or self.config.encode is None:
            return self.plan.num_shards
        return -(-self.plan.num_shards // self.config.encode.download_shards_per_file)

    def read_rows(self, shard_id: int) -> pa.Table:
        return self.rows.read_redacted(shard_id)

    def chains(self, asked: Sequence[str]) -> list[list[str]]:
        """A shard is scored as soon as it is downloaded, but in a retry: images that it found
        again are known only when it has ended."""
        first = [step for step in ("download", "score") if step in asked]
        rest = [[step] for step in asked if step not in first]
        return [*([[step] for step in first] if self.amendments.fetches_again else [first]), *rest]

    def own_step(self, step: str, resources: Resources) -> ShardStep:
        if step == "download":
            return self._download(resources)
        return self._encode(resources)

    def adopt(self, step: str) -> int:
        """Also what was downloaded before the last amendment."""
        if STEP_KINDS[step].taken_over != "amendments":
            return super().adopt(step)
        return adopt_download(
            self.committed(step),
            amendments=self.amendments,
            num_rows=self.plan.num_rows_of,
            num_shards=self.plan.num_shards,
        )

    def inputs(self, step: str, shard_id: int) -> str | None:
        if step != "encode" or self.config.encode is None:
            return super().inputs(step, shard_id)
        group = self.config.encode.download_shards_per_file
        return encode_inputs(
            self.committed("download"),
            self.committed("select"),
            options=self.identities["encode"].options_digest,
            shards=grouped_shards(shard_id, group=group, num_shards=self.plan.num_shards),
        )

    def _download(self, resources: Resources) -> DownloadStep:
        made = self.committed("download")
        return DownloadStep(
            self.store,
            self.rows,
            fingerprint=self.identities["download"].fingerprint,
            config=self.config.download,
            image=self.config.image,
            caption_facts=self.config.caption_facts,
            before=self.amendments.before[0] if self.amendments.fetches_again else None,
            again=reasons_again(self.amendments),
            content_hash_column=self.plan.content_hash,
            watched=min(set(range(self.plan.num_shards)) - made.shards(), default=None),
            resources=resources,
        )

    def _encode(self, resources: Resources) -> EncodeStep:
        assert self.config.encode is not None
        return EncodeStep(
            self.store,
            fingerprint=self.identities["encode"].fingerprint,
            images=self.committed("download"),
            verdicts=self.committed("select"),
            num_image_shards=self.plan.num_shards,
            config=self.config.encode,
            sizes=self.config.image.sizes,
            options_digest=self.identities["encode"].options_digest,
            torch_threads=self.config.engine.torch_threads,
            resources=resources,
        )

    def options(self, step: str) -> dict[str, Any]:
        config = self.config
        if step == "download":
            return {
                "plan": self.plan.fingerprint,
                **self.rows.rules.identity(),
                "download": config.download.model_dump(mode="json", exclude=_NOT_OF_THE_FETCH),
                "image": config.image.identity(),
                **config.caption_facts.identity(),
            }
        if step == "select":
            return self.select_options()
        assert config.encode is not None
        return {"encode": config.encode.identity(), **self.threads()}


def _recorded_image(store: RunStore) -> Mapping[str, Any]:
    """The options of the image by which the run's download was begun; empty where it was not."""
    download = read_run(store).get("steps", {}).get("download", {})
    image: Mapping[str, Any] = download.get("options", {}).get("image", {})
    return image
