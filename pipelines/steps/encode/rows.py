"""What becomes of the rows that encode is given: samples of the cache, or refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.rows.failures import Failures, failed_rows, reject
from pipelines.run.images import StoredImage
from pipelines.steps.encode.encode import Encoding
from pipelines.steps.encode.stored import NOT_FINITE
from sd_core.cache.samples import LatentSample
from sd_core.cache.shard_format import ShardWriter

_ATTRIBUTES = ("row", "sha256", "original_width", "original_height", "width", "height")


@dataclass(frozen=True)
class EncodedImages:
    """Images with what they are encoded to."""

    images: Sequence[StoredImage]
    encoding: Encoding


@dataclass
class Rejects:
    """The rows of a shard that encode was given, and those that it refuses."""

    seen: list[dict[str, Any]] = field(default_factory=list)
    failures: Failures = field(default_factory=dict)
    not_finite: set[str] = field(default_factory=set)

    def undecodable(self, shard_id: int, facts: dict[str, Any], error: Exception) -> None:
        """Take a row whose stored image does not decode."""
        self.seen.append({**facts, "shard_id": shard_id})
        self.failures[facts["key"]] = error

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `REJECTS`, in the order of the images."""
        found = failed_rows(self.seen, self.failures)
        found += [
            reject(row, reason="latents_not_finite", message=NOT_FINITE)
            for row in self.seen
            if row["key"] in self.not_finite
        ]
        place = {row["key"]: number for number, row in enumerate(self.seen)}
        return sorted(found, key=lambda row: place[row["key"]])


def write_batch(batch: EncodedImages, writer: ShardWriter, rejects: Rejects) -> None:
    """Wait for a batch, and put its rows into the local shard, or among the refused ones."""
    encoded = batch.encoding.take()
    for index, image in enumerate(batch.images):
        facts = image.facts
        sample = LatentSample(
            key=facts["key"],
            raw_latents=encoded.raw_latents[index].numpy(),
            input_ids=encoded.input_ids[index].numpy(),
            prompt_embeds=None
            if encoded.prompt_embeds is None
            else encoded.prompt_embeds[index].numpy(),
            caption=facts["caption"] or "",
            attributes={"shard_id": facts["shard_id"], **{n: facts[n] for n in _ATTRIBUTES}},
        )
        if not writer.write(sample):
            rejects.not_finite.add(facts["key"])
