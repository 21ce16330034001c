"""The download step: a shard's rows in, a tar of crops and a facts table committed."""

from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from pipelines.rows.caption_facts import EVERY_CAPTION_FACT, CaptionFactsConfig
from pipelines.rows.ledger import RETRIED_REASONS
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, SpooledFile
from pipelines.run.rows_done import rows_done
from pipelines.run.spool import CropSpool
from pipelines.run.spool_folder import spool_folder
from pipelines.steps.download.config import MAX_BODY_BYTES_IN_FLIGHT, DownloadConfig
from pipelines.steps.download.decoder_process import DecoderProcess
from pipelines.steps.download.fetch import Fetcher
from pipelines.steps.download.first_rows import FirstRows
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.img2dataset_seams import download_rows, load_img2dataset
from pipelines.steps.download.intake import IncomingRow, Intake, OnOutcome, RowOutcome, Taken
from pipelines.steps.download.limits import return_large_blocks_to_the_system
from pipelines.steps.download.local_files import LocalFiles
from pipelines.steps.download.planned_rows import PlannedRows
from pipelines.steps.download.shard_files import download_facts, find_earlier, write_crops
from pipelines.steps.left_rows import spool_table
from pipelines.steps.step import CommittedStep


@dataclass(kw_only=True, eq=False)
class DownloadStep(CommittedStep):
    """Fetches, decodes and commits shards; arguments beside those of `CommittedStep`:

    Args:
        rows: Where a shard's rows come from.
        before: Fingerprint of an earlier download, of whose shards only the rows that failed for
            one of the reasons `again` are fetched.
        content_hash_column: The `source_` column with the hash that the body must have.
        watched: The shard whose first rows are looked at, where it has enough of them: if nearly
            all drop for one reason, a line says so at once.
        spool_folder: Local, with room for a shard's crops twice; the system's by default.
    """

    name = "download"
    may_repeat = False
    """A slow shard waits for other people's servers, and its URLs have their deadlines."""

    rows: PlannedRows = field(kw_only=False)
    config: DownloadConfig
    image: ImageConfig
    caption_facts: CaptionFactsConfig = EVERY_CAPTION_FACT
    before: str | None = None
    again: Collection[str] = RETRIED_REASONS
    content_hash_column: str | None = None
    watched: int | None = None
    spool_folder: str | None = None
    _intake: Intake | None = field(default=None, init=False)
    _decoder: DecoderProcess | None = field(default=None, init=False)
    _opened: ExitStack | None = field(default=None, init=False)

    @cached_property
    def _made_before(self) -> Committed | None:
        return None if self.before is None else Committed(self.store, self.name, self.before)

    def open(self) -> None:
        """Start the decoder and load img2dataset."""
        load_img2dataset()
        return_large_blocks_to_the_system()
        with ExitStack() as stack:
            decoder = stack.enter_context(DecoderProcess(self.image))
            root, limit = self.rows.files_root, self.config.max_bytes
            fetcher = Fetcher(
                self.config,
                url_reason=self.rows.url_reason,
                files=None if root is None else LocalFiles(root, max_bytes=limit),
            )
            self._intake = Intake(
                fetcher,
                decoder,
                is_blocked=self.rows.blocks_content,
                max_bytes=self.config.max_bytes,
            )
            self._decoder = decoder
            self._opened = stack.pop_all()

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = self._intake = self._decoder = None

    def rows_in(self, shard_id: int) -> int:
        return self.rows.num_rows(shard_id)

    def run(self, shard_id: int) -> Manifest:
        """Download a shard and commit it.

        Raises:
            ShardError: Something failed that is not a row's own fault.
        """
        self._replace_broken_decoder()
        with spool_folder(self.spool_folder) as folder:
            return self._run(shard_id, folder)

    def _replace_broken_decoder(self) -> None:
        """One that gave up would fail every later shard of this worker, and those fail fast."""
        decoder = self._decoder
        if decoder is not None and not decoder.is_usable:
            self.close()
            self._decoder = decoder  # until there is a new one, so that the next shard tries again
            self.open()

    def _run(self, shard_id: int, folder: Path) -> Manifest:
        rows = self.rows.read(shard_id)
        earlier = find_earlier(self._made_before, shard_id, again=self.again)
        if earlier is not None:
            rows = earlier.failed_rows(rows)
        spool = CropSpool(folder / "crops")
        try:
            outcomes = self._settle(shard_id, rows, spool=spool, folder=folder)
            facts = download_facts(
                rows, shard_id=shard_id, outcomes=outcomes, caption_facts=self.caption_facts
            )
            if earlier is not None:
                facts = earlier.with_new(facts)
                earlier.keep_crops(spool)
            files = self._write_files(facts, spool=spool, folder=folder)
        finally:
            spool.close()
        reasons = facts["reason"].drop_null().to_pylist()
        return self.commit_shard(shard_id, files, kept=len(spool), reasons=reasons)

    def _settle(
        self, shard_id: int, rows: pa.Table, *, spool: CropSpool, folder: Path
    ) -> dict[int, RowOutcome]:
        if self._intake is None:
            raise RuntimeError("open() comes before run()")
        incoming = self._incoming(rows)
        first = FirstRows(rows if shard_id == self.watched else rows.slice(0, 0))

        def settled(row: int, outcome: RowOutcome) -> None:
            rows_done.add(1)
            first.add(row, outcome)

        images = self.rows.read_images(shard_id)
        if images is None:
            outcomes = download_rows(
                incoming,
                intake=self._intake,
                spool=spool,
                threads=self.config.threads,
                folder=folder,
                on_outcome=settled,
            )
        else:
            outcomes = take_images(
                incoming,
                images,
                intake=self._intake,
                spool=spool,
                threads=self.config.threads,
                on_outcome=settled,
            )
        for row, outcome in outcomes.items():  # also those that had no image to be taken
            first.add(row, outcome)
        return outcomes

    def _incoming(self, rows: pa.Table) -> list[IncomingRow]:
        column = self.content_hash_column
        names = ["row", "key", "url", "reason", *([column] if column else [])]
        return [
            IncomingRow(
                row=row["row"],
                key=row["key"],
                url=row["url"] or "",
                content_hash=row[column] if column else None,
            )
            for row in rows.select(names).to_pylist()
            if row["reason"] is None
        ]

    def _write_files(self, facts: pa.Table, *, spool: CropSpool, folder: Path) -> list[SpooledFile]:
        files = []
        if len(spool):
            tar = folder / "images.tar"
            count = write_crops(facts, spool=spool, path=tar, extension=self.image.format)
            files.append(SpooledFile(folder="images", path=tar, num_rows=count))
        return [*files, spool_table(facts, folder, "facts/download")]


def take_images(
    incoming: list[IncomingRow],
    images: Iterator[tuple[int, bytes]],
    *,
    intake: Intake,
    spool: CropSpool,
    threads: int,
    on_outcome: OnOutcome = lambda row, outcome: None,
) -> dict[int, RowOutcome]:
    """Decode images that came with the source; a row without one is `member_missing`."""
    wanted = {row.row: row for row in incoming}
    outcomes = {
        row: RowOutcome(reason="member_missing", error_message="the source holds no image for it")
        for row in wanted
    }
    pending: deque[tuple[int, int, Future[Taken]]] = deque()
    pending_bytes = 0

    def settle_first() -> int:
        number, size, future = pending.popleft()
        taken = future.result()
        if taken.image is not None:
            spool.add(number, taken.image)
        outcomes[number] = taken.outcome
        on_outcome(number, taken.outcome)
        return size

    with ThreadPoolExecutor(threads) as pool:
        for number, data in images:
            if number not in wanted:
                continue
            while pending and (
                len(pending) >= 2 * threads or pending_bytes + len(data) > MAX_BODY_BYTES_IN_FLIGHT
            ):
                pending_bytes -= settle_first()
            pending.append((number, len(data), pool.submit(intake.take, data, row=wanted[number])))
            pending_bytes += len(data)
        while pending:
            settle_first()
    return outcomes
