"""The process that decodes: one image at a time, bytes on a pipe in, squares on a pipe out.

It bounds itself. Memory: RLIMIT_DATA, set above what the imports took, should a need be judged
wrongly (`bounds`). Time: a CPU timer whose
signal kills it. Life: it ends at the end of its input, when its parent is gone, or after a file
whose decoder may have written where it must not; a fresh fork goes on (`decoder_lives`). What
decoders print goes nowhere. It must import neither torch, ray nor img2dataset.
"""

import gc
import io
import os
import resource
import select
import signal
import sys
from typing import BinaryIO

import cv2

from pipelines.steps.download.decode import decode_to_crop
from pipelines.steps.download.decode_frames import (
    EXIT_OUT_OF_MEMORY,
    DecoderAnswer,
    DecodeResult,
    frame_reader,
    read_frame,
    write_answer,
    write_hello,
)
from pipelines.steps.download.decoder_lives import is_orphan, run_lives
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected

_PARENT_CHECK_S = 1.0


def main() -> None:
    """Serves until the input ends. The configuration is the only argument, as JSON."""
    config = ImageConfig.model_validate_json(sys.argv[1])
    jobs, results = _private_pipes()
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, not the terminal
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    gc.freeze()
    supervisor = os.getpid()
    run_lives(lambda: _serve(jobs, results, config, supervisor), parent=os.getppid())


def _serve(jobs: BinaryIO, results: BinaryIO, config: ImageConfig, supervisor: int) -> bool:
    """Decodes until the input ends; True when its memory is no longer to be trusted."""
    limit_memory(config.process_memory_bytes)
    write_hello(results)
    while _has_job(jobs, supervisor):
        data = read_frame(jobs)
        if data is None:
            break
        signal.setitimer(signal.ITIMER_PROF, config.decode_timeout_s)
        result, retires = _outcome(data, config)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        write_answer(results, DecoderAnswer(result=result, retires=retires))
        if retires:
            return True
    return False


def limit_memory(extra_bytes: int) -> None:
    """Lets this process's private memory grow by `extra_bytes` and no further (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmData:"))
    allowed = int(line.split()[1]) * 1024 + extra_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _outcome(data: bytes, config: ImageConfig) -> tuple[DecodeResult, bool]:
    try:
        return DecodeResult(**vars(decode_to_crop(data, config))), False
    except ImageRejected as rejected:
        return DecodeResult(
            original_width=rejected.original_width,
            original_height=rejected.original_height,
            original_format=rejected.original_format,
            reason=rejected.reason,
            error_message=rejected.message,
        ), rejected.may_have_written
    except MemoryError:
        # What is left of a failed decode may be anywhere; a fresh process judges the next one.
        os._exit(EXIT_OUT_OF_MEMORY)


def _private_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Takes stdin and stdout for ourselves and leaves /dev/null in their place."""
    jobs = frame_reader(io.FileIO(os.dup(0)))
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    return jobs, results


def _has_job(jobs: BinaryIO, supervisor: int) -> bool:
    """Waits for input (or its end); False when the supervisor is gone."""
    while not select.select([jobs], [], [], _PARENT_CHECK_S)[0]:
        if is_orphan(supervisor):
            return False
    return True


if __name__ == "__main__":
    main()
