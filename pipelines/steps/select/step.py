"""Select over a whole run: judge every row, settle what only all of them decide, write."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.rules.rule import ReadyRule
from pipelines.rules.sql_rule import SqlCondition
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, SpooledFile
from pipelines.run.on_threads import in_order
from pipelines.run.shard_inputs import gives_of
from pipelines.run.spool_folder import spool_folder
from pipelines.run.tables import write_table
from pipelines.steps.select.config import SelectConfig
from pipelines.steps.select.duplicates import Duplicates
from pipelines.steps.select.facts import Facts
from pipelines.steps.select.plan import plan_rules
from pipelines.steps.select.ranking import Contest, Ranked
from pipelines.steps.select.read_ahead import ReadAhead
from pipelines.steps.select.recaptions import CaptionFiles, Recaptions
from pipelines.steps.select.references import References
from pipelines.steps.select.spill import Entry
from pipelines.steps.select.tokens import TokenColumns
from pipelines.steps.select.verdicts import BY_FACTS, Verdicts
from pipelines.steps.select.write import CopyNames, ledger_table
from pipelines.steps.step import CommittedStep
from sd_core.say import Say

if TYPE_CHECKING:
    from pipelines.rules.conditions import Judged
    from sd_core.model.caption_tokenizer import CaptionTokenizer


@dataclass(kw_only=True, eq=False)
class Select(CommittedStep):
    """Reads facts, writes the ledger: one row for every input row.

    Two passes over the facts, of the columns that the rules name and then of all, by a few threads
    whose results are taken in plan order; memory is that of a few shards and of a partition of what
    is compared, which lies in local files meanwhile.

    Attributes:
        read_rows: Rows of a shard whose download was quarantined (row, key, url, caption and
            source columns), read from the list again.
    """

    name = "select"

    config: SelectConfig
    num_shards: int
    images: Committed
    """The step that made the images."""
    score: Committed | None
    """The score step; None where nothing is scored."""
    read_rows: Callable[[int], pa.Table]
    token_counter: "CaptionTokenizer | None" = None
    """Encode's tokenizer; None: the captions' tokens are not counted."""
    cache_sizes: Sequence[tuple[int, int]] = ()
    """Width and height of the images that encode takes; empty: whatever there is."""
    further: Sequence[pa.Field] = ()
    """Columns of the ledger beside those of every run."""
    captions: CaptionFiles | None = None
    """Captions from elsewhere; None where the list's own are all."""
    say: Say = lambda line: None
    """Told how many of them are of rows of this run."""

    def run(self, on_commit: Callable[[Manifest], None]) -> None:
        """Write every shard of the ledger that is not there yet.

        Raises:
            ShardError: a step before this one is not complete.
            ConfigError: a rule does not go with the facts, or a list cannot be read.
        """
        done = self.made.begin()
        if len(done) == self.num_shards:
            return
        with spool_folder() as folder:
            facts = self._facts(folder)
            if facts.recaptions is not None:
                facts.recaptions.read()
            verdicts = Verdicts(folder, facts.shard_sizes)
            references = References(self.config.copies.references, self.store.storage_options)
            self._judge(facts, verdicts, references, folder)
            names = CopyNames(facts, verdicts, references, folder)
            owed = [shard_id for shard_id in range(self.num_shards) if shard_id not in done]
            write = partial(self._write, facts, verdicts, names, folder)
            written = facts.in_order(write, owed)
            threads = self.store.num_threads
            for manifest in in_order(self._commit, written, num_threads=threads):
                on_commit(manifest)
            if facts.recaptions is not None:
                self.say(facts.recaptions.told())

    def _facts(self, folder: Path) -> Facts:
        counter = self.token_counter
        return Facts(
            images=self.images,
            num_shards=self.num_shards,
            score=self.score,
            read_rows=self.read_rows,
            files=ReadAhead(self.store, folder),
            tokens=None if counter is None else TokenColumns(counter=counter, folder=folder),
            further=self.further,
            recaptions=None if self.captions is None else Recaptions(self.captions, folder),
        )

    def _judge(
        self, facts: Facts, verdicts: Verdicts, references: References, folder: Path
    ) -> None:
        options = self.store.storage_options
        planned = plan_rules(
            self.config, options, cache_sizes=self.cache_sizes, further=self.further
        )
        rules: list[tuple[int, ReadyRule | Contest]] = []
        for rule in planned:
            code = verdicts.register(rule.outcomes)
            if isinstance(rule, Ranked):
                rules.append((code, Contest(rule, code=code, folder=folder)))
            else:
                rules.append((code, rule))
        duplicates = Duplicates(
            config=self.config.copies,
            facts=facts,
            verdicts=verdicts,
            references=references,
            folder=folder,
        )
        columns = {*duplicates.columns, *(name for rule in planned for name in rule.columns)}

        def judge(shard_id: int) -> _Judged:
            at = verdicts.shard(shard_id)
            if facts.is_lost(shard_id):
                return _Judged(np.full(at.stop - at.start, BY_FACTS, np.int16))
            rows = facts.read(shard_id, columns=columns)
            return _judge_shard(rows, at.start, rules, duplicates)

        shards = range(self.num_shards)
        for shard_id, judged in enumerate(facts.in_order(judge, shards)):
            judged.take(verdicts, verdicts.shard(shard_id))
        for _, entered in rules:
            if isinstance(entered, SqlCondition):
                entered.finish()
            if isinstance(entered, Contest):
                entered.settle(verdicts)
        duplicates.settle()

    def _write(
        self, facts: Facts, verdicts: Verdicts, names: CopyNames, folder: Path, shard_id: int
    ) -> "_Written":
        table = ledger_table(
            facts.read(shard_id),
            verdicts,
            names,
            places=verdicts.shard(shard_id),
            further=self.further,
        )
        path = folder / f"ledger-{shard_id}.parquet"
        write_table(table, path)
        file = SpooledFile(folder="ledger", path=path, num_rows=table.num_rows)
        reasons = Counter(table["reason"].drop_null().to_pylist())
        return _Written(shard_id, file, reasons, gives_of(table))

    def _commit(self, written: "_Written") -> Manifest:
        file, reasons = written.file, written.reasons
        manifest = self.commit_shard(
            written.shard_id,
            [file],
            kept=file.num_rows - reasons.total(),
            reasons=reasons,
            gives=written.gives,
        )
        file.path.unlink()
        return manifest


@dataclass(frozen=True)
class _Written:
    """A shard of the ledger on local disk."""

    shard_id: int
    file: SpooledFile
    reasons: Counter[str]
    gives: Mapping[str, str]


@dataclass(frozen=True)
class _Judged:
    """A shard's rows by the rules on single rows, before it is the shard's turn.

    Attributes:
        codes: One a row.
        entries: Rows to be compared with others.
        asked: Conditions in SQL with what they said.
        messages: By place, of the rows on which one failed.
    """

    codes: npt.NDArray[np.int16]
    entries: list[Entry] = field(default_factory=list)
    asked: list[tuple[SqlCondition, "Judged"]] = field(default_factory=list)
    messages: dict[int, str] = field(default_factory=dict)

    def take(self, verdicts: Verdicts, at: slice) -> None:
        verdicts.codes[at] = self.codes
        verdicts.messages |= self.messages
        for entry in self.entries:
            entry.add()
        for condition, said in self.asked:
            condition.take(said)


def _judge_shard(
    rows: pa.Table,
    first: int,
    rules: list[tuple[int, ReadyRule | Contest]],
    duplicates: Duplicates,
) -> _Judged:
    """Give each row the code of the first rule on itself that it breaks; enter it for the others.

    A row is entered into a contest, and met by the rules after it, as if it stayed: what the
    contest drops has the lesser code. The first row's place is `first`.
    """
    passed = np.asarray(rows["reason"].is_null())
    judged = _Judged(np.where(passed, 0, BY_FACTS).astype(np.int16))
    rows, places = rows.filter(pa.array(passed)), first + np.flatnonzero(passed)
    for code, rule in rules:
        if isinstance(rule, Contest):
            judged.entries.append(rule.entry(rows, places))
            continue
        if isinstance(rule, SqlCondition):
            said = rule.judge(rows)
            judged.asked.append((rule, said))
            judged.messages.update(zip(places[said.failed].tolist(), said.errors, strict=True))
            breaks = said.breaks
        else:
            breaks = rule.broken(rows)
        broken = breaks > 0
        if broken.any():
            judged.codes[places[broken] - first] = code - 1 + breaks[broken]
            rows, places = rows.filter(pa.array(~broken)), places[~broken]
    judged.entries.extend(duplicates.entries(rows, places))
    return judged
