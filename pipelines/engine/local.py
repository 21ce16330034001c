"""The reference runner: the same steps, one shard after another, in this process."""

import traceback
from collections.abc import Callable

from pipelines.engine.chain import Chain


def run_local(chain: Chain, *, check: Callable[[], None]) -> None:
    """Run a chain to its end; `check` is called between shards and may raise to stop it."""
    opened = []
    try:
        while not chain.is_done:
            check()
            # The last step that has something to do goes first, so that shards flow through.
            for index in reversed(range(len(chain.states))):
                shard_id = chain.next_shard(index)
                if shard_id is not None:
                    break
            else:
                raise RuntimeError("a chain with work left offers no shard")
            step = chain.states[index].step
            if step not in opened:
                step.open()
                opened.append(step)
            try:
                manifest = step.run(shard_id)
            except Exception as error:
                trace = "".join(traceback.format_exception_only(error))
                chain.failed(index, shard_id, trace, cause=error)
            else:
                chain.finished(index, shard_id, manifest)
    finally:
        for step in opened:
            step.close()
