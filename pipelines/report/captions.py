"""How many captions the text encoder reads only in part."""

from dataclasses import dataclass

import pyarrow.compute as pc

from pipelines.report.ledgers import Ledgers
from pipelines.rows.ledger import TOKEN_FIELDS
from pipelines.run.record import read_run
from pipelines.run.store import RunStore
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
    """Read the ledger's counts; None, and nothing is read, where select counted nothing."""
    names = {field.name for field in TOKEN_FIELDS}
    options = read_run(ledgers.store).get("steps", {}).get("select", {}).get("options", {})
    if TOKENS_OPTION not in options or not names <= set(ledgers.schema.names):
        return None
    kept = cut = longest = counted = 0
    for table in ledgers.read({*names, "kept"}):
        counted += table.num_rows - table["caption_tokens"].null_count
        rows = table.filter(table["kept"])
        kept += rows.num_rows - rows["caption_tokens"].null_count
        cut += pc.sum(rows["caption_is_cut"]).as_py() or 0
        longest = max(longest, pc.max(rows["caption_tokens"]).as_py() or 0)
    if not counted:
        return None
    most = options[TOKENS_OPTION].get("max_tokens")
    return CutCaptions(kept=kept, cut=cut, longest=longest, max_tokens=most)


def say_cut_captions(store: RunStore, say: Say) -> None:
    """Say once how many captions are cut; nothing where none is."""
    found = count_cut_captions(Ledgers(store))
    if found is not None and found.cut:
        say(f"select: {found.text}")
