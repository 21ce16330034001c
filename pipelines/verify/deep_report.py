"""What a deep look into a shard has found so far."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipelines.run.manifest import Manifest
from pipelines.verify.fault import Fault, limit


@dataclass(kw_only=True)
class DeepReport:
    """A shard's report being made.

    Attributes:
        is_damaged: Whether a table of it is not as its manifest says.
        hashed: Paths of files whose hash was looked at.
    """

    shard_id: int
    manifests: Mapping[str, Manifest]
    faults: list[Fault]
    stored_keys: tuple[str, ...] = ()
    kept_keys: tuple[str, ...] = ()
    kept_hashes: tuple[str, ...] = ()
    named_keys: tuple[str, ...] = ()
    gone_keys: tuple[str, ...] = ()
    is_damaged: bool = False
    hashed: set[str] = field(default_factory=set)

    def path(self, step: str, folder: str) -> str:
        """Of the file that a step committed, or of its folder."""
        entry = self.manifests[step].file(folder)
        return entry.path if entry is not None else folder

    def add(self, faults: Iterator[Fault], where: str) -> None:
        """Take in what a check finds, as far as a person would read it."""
        self.faults += limit(faults, where)
