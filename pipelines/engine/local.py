"""The reference runner: the same steps, one shard after another, in this process."""

import time
import traceback
from collections.abc import Callable

from pipelines.engine.chain import Chain
from pipelines.steps.step import is_light
from sd_core.errors import is_no_shards_fault
from sd_core.faults import describe_fault
from sd_core.say import Say

_LOOK_EVERY_S = 1.0


def run_local(chain: Chain, *, check: Callable[[], None], say: Say) -> None:
    """Run a chain to its end; `check` is called between shards and may raise to stop it."""
    opened = []
    try:
        while not chain.is_done:
            check()
            if wait_s := chain.patience.wait_s:
                time.sleep(min(wait_s, _LOOK_EVERY_S))
                continue
            # The last step that has something to do goes first, so that shards flow through.
            for index in reversed(range(len(chain.states))):
                shard_id = chain.next_shard(index)
                if shard_id is not None:
                    break
            else:
                raise RuntimeError("a chain with work left offers no shard")
            step = chain.states[index].step
            is_opening = False
            try:
                if step not in opened and not is_light(step, shard_id):
                    is_opening = True
                    step.open()
                    opened.append(step)
                    is_opening = False
                    if step.resources.num_gpus and getattr(step, "device", "cpu") == "cpu":
                        say(f"{step.name}: works on the CPU: torch sees no GPU")
                manifest = step.run(shard_id)
            except Exception as error:
                chain.failed(index, shard_id, _told(error, opened=not is_opening), cause=error)
            else:
                chain.finished(index, shard_id, manifest)
    finally:
        for step in opened:
            step.close()


def _told(error: Exception, *, opened: bool) -> str:
    """For the log and the manifest; raises what a step that could not be opened is at fault for."""
    if is_no_shards_fault(error):
        return describe_fault(error)
    if not opened:
        raise error
    return "".join(traceback.format_exception_only(error))
