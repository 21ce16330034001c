"""How many rows a worker has done of its present shard, for whoever watches it."""


class _RowsDone:
    """A count, of one process."""

    def __init__(self) -> None:
        self.count = 0

    def begin(self) -> None:
        """Another shard is begun."""
        self.count = 0

    def add(self, rows: int) -> None:
        """So many more rows are done; a step says so as it goes, exactly or nearly."""
        self.count += rows


rows_done = _RowsDone()
