"""Our download step as a job runs it: worker processes with a decoder each; without Ray.

    python -m jobs.bench.our_download LIST OUTPUT --workers 2 --threads 32

Like img2dataset's command it plans, starts a pool of processes and hands them shards.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.util import Finalize
from pathlib import Path

from pipelines.plan import PlanConfig, make_plan
from pipelines.run.manifest import Manifest
from pipelines.run.store import RunStore
from pipelines.sources import Source, SourceConfig
from pipelines.steps.download.config import DownloadConfig
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.planned_rows import PlannedRows
from pipelines.steps.download.step import DownloadStep

_opened: list[DownloadStep] = []  # the one step of a worker process


def main() -> None:
    """Download a list into a run's folder."""
    options = _parse()
    store = RunStore(str(options.output))
    source = Source(SourceConfig(path=str(options.list)))
    plan = make_plan(source, PlanConfig(rows_per_shard=options.rows_per_shard), store=store)
    rows = PlannedRows(store, source)
    step = DownloadStep(
        store,
        rows,
        fingerprint="0" * 16,
        config=DownloadConfig(
            allow_networks=("127.0.0.0/8",), threads=options.threads, max_per_host=options.threads
        ),
        image=ImageConfig(size=options.image_size),
    )
    with ProcessPoolExecutor(
        options.workers, mp_context=get_context("spawn"), initializer=_open, initargs=(step,)
    ) as pool:
        manifests = list(pool.map(_run, range(plan.num_shards)))
    print(sum(manifest.kept for manifest in manifests))


def _open(step: DownloadStep) -> None:
    step.open()
    _opened.append(step)
    Finalize(None, step.close, exitpriority=10)  # the process waits for its decoder


def _run(shard_id: int) -> Manifest:
    return _opened[0].run(shard_id)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("list", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--rows-per-shard", type=int, default=10_000)
    parser.add_argument("--image-size", type=int, default=512)
    return parser.parse_args()


if __name__ == "__main__":
    main()
