"""From a curate configuration to its steps: fingerprints, workers, folders, parents."""

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipelines.plan import Plan
from pipelines.redact import redact_config
from pipelines.revisions.adopt import adopt_download, adopt_shards
from pipelines.run.cache_files import publish_cache
from pipelines.run.edition import read_edition
from pipelines.run.manifest import committed_shards
from pipelines.run.record import CURATE_FOLDERS, CURATE_PARENTS, StepIdentity
from pipelines.run.shard_inputs import encode_inputs, grouped_shards, score_inputs
from pipelines.run.store import RunStore
from pipelines.sources import Source
from pipelines.steps.download.step import DownloadStep
from pipelines.steps.encode import EncodeStep
from pipelines.steps.score import ScoreStep
from pipelines.steps.select import Select, input_digests
from pipelines.steps.select.tokens import token_identity
from pipelines.steps.step import Resources, ShardStep
from pipelines.workflows.planned_rows import PlannedRows
from sd_core.model.caption_tokenizer import load_caption_tokenizer

if TYPE_CHECKING:
    from pipelines.workflows.curate import CurateConfig

# Options that change how fast a result is there, and not the result.
_PACE_OF_DOWNLOAD = {"threads", "max_per_host", "backoff_s", "connect_timeout_s"}
_NOT_OF_THE_FETCH = {"rules"} | _PACE_OF_DOWNLOAD


class CurateSteps:
    """The steps of one run.

    Attributes:
        identities: Step name to what decides its result; only steps that are configured.
        tokenizer: Encode's, where it is configured.

    Raises:
        WeightsError: the tokenizer cannot be had.
    """

    def __init__(self, config: "CurateConfig", store: RunStore, source: Source, plan: Plan) -> None:
        self.config = config
        self.store = store
        self.plan = plan
        self.max_quarantined_shards = config.engine.max_quarantined_shards
        self.edition = read_edition(store)
        self.rows = PlannedRows(store, source, config.before_fetch)
        encode = config.encode
        self.tokenizer = None if encode is None else load_caption_tokenizer(encode.text_encoder)
        self.identities: dict[str, StepIdentity] = {}
        for step in self._configured():
            parents = [self.identities[name].fingerprint for name in self.parents(step)]
            self.identities[step] = StepIdentity(
                step=step,
                options=redact_config(self._options(step)),
                parents=tuple(parents),
            )

    def _configured(self) -> list[str]:
        optional = {"score": self.config.score, "encode": self.config.encode}
        return [step for step in CURATE_FOLDERS if optional.get(step, self.config) is not None]

    def parents(self, step: str) -> list[str]:
        """The steps whose results this one reads."""
        chain = self._configured()
        return [parent for parent in CURATE_PARENTS[step] if parent in chain]

    def folders(self, step: str) -> Iterable[str]:
        """The folders that the step writes."""
        return CURATE_FOLDERS[step]

    def num_shards(self, step: str) -> int:
        """How many shards the step has."""
        if step != "encode" or self.config.encode is None:
            return self.plan.num_shards
        group = self.config.encode.download_shards_per_file
        return -(-self.plan.num_shards // group)

    @cached_property
    def public_config(self) -> dict[str, Any]:
        """The resolved configuration for run.json, without secrets."""
        return redact_config(self.config.model_dump(mode="json"))

    @cached_property
    def models(self) -> dict[str, Any]:
        """What run.json says of the models, random weights included."""
        models: dict[str, Any] = {}
        if self.config.score is not None:
            models["score"] = self.config.score.describe_models()
        if self.config.encode is not None:
            models["encode"] = self.config.encode.describe_models()
        return models

    def shard_step(self, step: str, resources: Resources) -> ShardStep:
        """The step as the engine runs it."""
        if step == "download":
            return self._download(resources)
        if step == "score":
            return self._score(resources)
        return self._encode(resources)

    def select(self) -> Select:
        """The select step, which the driver itself runs."""
        return Select(
            store=self.store,
            fingerprint=self._fingerprint("select"),
            config=self.config.select,
            num_shards=self.plan.num_shards,
            download=self._fingerprint("download"),
            score=self._fingerprint("score") if "score" in self.identities else None,
            read_rows=self.rows.read_redacted,
            token_counter=self.tokenizer,
            cache_size=None if self.config.encode is None else self.config.image.size,
        )

    def adopt(self, step: str) -> int:
        """Take over what an earlier revision made from the same; returns how many shards."""
        fingerprint = self._fingerprint(step)
        if step == "download":
            return adopt_download(
                self.store,
                edition=self.edition,
                fingerprint=fingerprint,
                num_shards=self.plan.num_shards,
            )
        if step not in ("score", "encode"):
            return 0
        return adopt_shards(
            self.store,
            step=step,
            fingerprint=fingerprint,
            shard_ids=range(self.num_shards(step)),
            inputs_of=self._score_inputs if step == "score" else self._encode_inputs,
        )

    def has_every_shard(self, step: str) -> bool:
        """Whether nothing is left to do for a step."""
        done = committed_shards(self.store, step, self._fingerprint(step))
        return len(done) >= self.num_shards(step)

    def _score_inputs(self, shard_id: int) -> str | None:
        return score_inputs(
            self.store,
            options=self.identities["score"].options_digest,
            origin="download",
            images=self._fingerprint("download"),
            shard=shard_id,
        )

    def _encode_inputs(self, shard_id: int) -> str | None:
        assert self.config.encode is not None
        group = self.config.encode.download_shards_per_file
        return encode_inputs(
            self.store,
            options=self.identities["encode"].options_digest,
            download=self._fingerprint("download"),
            select=self._fingerprint("select"),
            shards=grouped_shards(shard_id, group=group, num_shards=self.plan.num_shards),
        )

    def publish(self, step: str) -> None:
        """Put the cache's spec and the empty caption where readers look, when it is complete."""
        if step == "encode":
            publish_cache(self.store, fingerprint=self._fingerprint("encode"))

    def _download(self, resources: Resources) -> DownloadStep:
        return DownloadStep(
            self.store,
            self.rows,
            fingerprint=self._fingerprint("download"),
            config=self.config.download,
            image=self.config.image,
            caption_facts=self.config.caption_facts,
            before=self.edition.before[0] if self.edition.fetches_again else None,
            content_hash_column=self.plan.content_hash,
            blocked_sha256=self.rows,
            resources=resources,
        )

    def _score(self, resources: Resources) -> ScoreStep:
        assert self.config.score is not None
        return ScoreStep(
            self.store,
            fingerprint=self._fingerprint("score"),
            download=self._fingerprint("download"),
            config=self.config.score,
            options_digest=self.identities["score"].options_digest,
            torch_threads=self.config.engine.torch_threads,
            resources=resources,
        )

    def _encode(self, resources: Resources) -> EncodeStep:
        assert self.config.encode is not None
        return EncodeStep(
            self.store,
            fingerprint=self._fingerprint("encode"),
            download=self._fingerprint("download"),
            select=self._fingerprint("select"),
            num_download_shards=self.plan.num_shards,
            config=self.config.encode,
            image_size=self.config.image.size,
            options_digest=self.identities["encode"].options_digest,
            torch_threads=self.config.engine.torch_threads,
            resources=resources,
        )

    def _fingerprint(self, step: str) -> str:
        return self.identities[step].fingerprint

    def _options(self, step: str) -> dict[str, Any]:
        config = self.config
        threads = {"torch_threads": config.engine.torch_threads}
        if step == "download":
            return {
                "plan": self.plan.fingerprint,
                **self.rows.rules.identity(),
                "download": config.download.model_dump(mode="json", exclude=_NOT_OF_THE_FETCH),
                "image": config.image.identity(),
                **config.caption_facts.identity(),
                **self.edition.identity(),
            }
        if step == "score":
            assert config.score is not None
            return {"score": config.score.identity(), **threads}
        if step == "select":
            files = input_digests(config.select, config.storage_options)
            return {
                "select": config.select.identity(),
                **({"files": files} if files else {}),
                **token_identity(self.tokenizer),
            }
        assert config.encode is not None
        return {"encode": config.encode.identity(), **threads}
