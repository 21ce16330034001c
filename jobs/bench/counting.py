"""Every operation on storage by name, as runs ask for it and as an object store is asked."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import Lock
from typing import Any, Final
from unittest.mock import patch

import s3fs

from pipelines.run.store import RunStore

_OPERATIONS: Final = (
    *("exists", "size", "list_sizes", "list_folders", "read_bytes", "open", "fetch"),
    *("put_file", "show", "replace", "create_exclusive", "delete", "delete_all"),
)


@contextmanager
def counted_operations() -> Iterator[Counter[str]]:
    """Count what any `RunStore` of this process does; of S3 also each request, `s3 <name>`."""
    counts: Counter[str] = Counter()
    lock = Lock()

    def count(name: str) -> None:
        with lock:
            counts[name] += 1

    def counting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def counted(*arguments: Any, **options: Any) -> Any:
            count(name)
            return method(*arguments, **options)

        return counted

    request = s3fs.S3FileSystem._call_s3

    async def asked(store: Any, method: str, *arguments: Any, **options: Any) -> Any:
        count(f"s3 {method}")
        return await request(store, method, *arguments, **options)

    with ExitStack() as patches:
        for name in _OPERATIONS:
            counted = counting(name, getattr(RunStore, name))
            patches.enter_context(patch.object(RunStore, name, counted))
        patches.enter_context(patch.object(s3fs.S3FileSystem, "_call_s3", asked))
        yield counts
