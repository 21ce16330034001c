"""A step in one package: small pictures of the kept images, a tar a shard, in `thumbnails/`."""

import io
import tarfile

from PIL import Image
from pydantic import Field

from pipelines.config import Config
from pipelines.run.manifest import Manifest, SpooledFile, commit_shard
from pipelines.run.shard_inputs import kept_keys
from pipelines.run.spool_folder import spool_folder
from pipelines.steps.kind import Folder, StepContext, StepKind
from pipelines.steps.rewrite import rewrite_members


class ThumbnailsConfig(Config):
    """The step's section under `steps:`."""

    side_px: int = Field(default=64, ge=8, le=512)
    """The longer side."""


class ThumbnailsStep:
    """Makes and commits shards of small pictures; no model runs."""

    name = "thumbnails"

    def __init__(self, context: StepContext) -> None:
        self.fingerprint = context.fingerprint
        self.resources = context.resources
        self._context = context

    def open(self) -> None:
        """Nothing is loaded."""

    def close(self) -> None:
        """Nothing is held."""

    def rows_in(self, shard_id: int) -> int:
        """Rows that select kept."""
        return self._context.committed["select"].manifest(shard_id).kept

    def run(self, shard_id: int) -> Manifest:
        """The kept images of a shard, made small."""
        context, size = self._context, self._context.options.side_px
        keys = frozenset(kept_keys(context.committed["select"], shard_id))
        with spool_folder() as folder:
            path = folder / "thumbnails.tar"
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for image in context.images.images(shard_id, keys=keys):
                    small = Image.fromarray(image.pixels)
                    small.thumbnail((size, size))
                    stream = io.BytesIO()
                    small.save(stream, "JPEG")
                    member = tarfile.TarInfo(f"{image.facts['key']}.jpg")
                    member.size = len(stream.getvalue())
                    tar.addfile(member, io.BytesIO(stream.getvalue()))
            made = SpooledFile(folder="thumbnails", path=path, num_rows=len(keys))
            return commit_shard(
                context.store,
                step=self.name,
                fingerprint=self.fingerprint,
                shard_id=shard_id,
                files=[made] if keys else [],
                rows_in=len(keys),
                kept=len(keys),
                dropped={},
            )


THUMBNAILS = StepKind(
    name="thumbnails",
    folders=(Folder(path="thumbnails", holds="kept"),),
    reasons=frozenset({"shard_quarantined"}),
    parents=("download", "generate", "select"),
    is_recut=True,
    loads_models=False,
    rewrite=lambda shard: rewrite_members(shard, "thumbnails"),
    config=ThumbnailsConfig,
    build=ThumbnailsStep,
)
"""The row of the table."""
