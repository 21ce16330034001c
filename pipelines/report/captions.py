"""How many captions the text encoder reads only in part."""

from dataclasses import dataclass

from pipelines.report.ledgers import Ledgers
from pipelines.rows.ledger import TOKEN_FIELDS
from pipelines.run.committed import Committed
from pipelines.run.record import read_run
from pipelines.run.shard_inputs import CaptionCounts, count_captions, told_captions
from pipelines.steps.select.tokens import TOKENS_OPTION
from sd_core.say import Say


@dataclass(frozen=True, kw_only=True)
class CutCaptions:
    """Of the rows that select kept.

    Attributes:
        kept: Rows with a counted caption.
        cut: Those whose caption is longer than the text encoder reads.
        longest: Tokens of the longest.
        max_tokens: That are read; None where run.json does not say it.
    """

    kept: int
    cut: int
    longest: int
    max_tokens: int | None

    @property
    def text(self) -> str:
        """One sentence."""
        read = "tokens" if self.max_tokens is None else f"{self.max_tokens} tokens"
        share = f"{self.cut / self.kept:.1%}" if self.kept else "0%"
        return (
            f"{self.cut:,} of {self.kept:,} kept captions ({share}) are longer than the {read} "
            f"that the text encoder reads and are cut; the longest has {self.longest:,}"
        )


def count_cut_captions(ledgers: Ledgers) -> CutCaptions | None:
    """Sum what the ledger's shards have counted; None where select counted nothing."""
    names = {field.name for field in TOKEN_FIELDS}
    options = read_run(ledgers.store).get("steps", {}).get("select", {}).get("options", {})
    if TOKENS_OPTION not in options:
        return None
    counts: list[CaptionCounts] = []
    for manifest in ledgers.committed("select").manifests(ledgers.step("select").num_shards):
        if manifest.gives is None:  # of a run made before it was told
            if not names <= set(ledgers.schema.names):
                return None
            counts = [count_captions(table) for table in ledgers.read({*names, "kept"})]
            break
        counts.append(told_captions(manifest.gives))
    if not any(count.counted for count in counts):
        return None
    kept, cut = (sum(getattr(count, name) for count in counts) for name in ("kept", "cut"))
    longest = max(count.longest for count in counts)
    most = options[TOKENS_OPTION].get("max_tokens")
    return CutCaptions(kept=kept, cut=cut, longest=longest, max_tokens=most)


def say_cut_captions(verdicts: Committed, say: Say) -> None:
    """Say once how many captions are cut; nothing where none is."""
    found = count_cut_captions(Ledgers(verdicts.store, (verdicts,)))
    if found is not None and found.cut:
        say(f"select: {found.text}")
