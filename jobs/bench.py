"""Bench: what the job costs, measured on this machine.

    python jobs/bench.py download   our download beside img2dataset's command
    python jobs/bench.py curate     the whole on Ray beside the sum of its steps
    python jobs/bench.py memory     peak memory at ten times the rows
    python jobs/bench.py train      training from the cache beside encoding online, and the loader
    python jobs/bench.py generate   bulk generation beside the plain diffusers pipeline
    python jobs/bench.py select     a ledger of 1,000,000 rows cut anew, duplicates included
    python jobs/bench.py planted    what select finds of pictures with planted truth

Exit codes: 0 measured, 1 failed, or a promise about planted pictures was not kept.
"""

import argparse
import sys
import time
from pathlib import Path

from pipelines.bench.curate import measure_curate
from pipelines.bench.download import BenchError, measure_download
from pipelines.bench.generate import measure_generate
from pipelines.bench.hardware import describe_hardware
from pipelines.bench.memory import measure_memory
from pipelines.bench.options import (
    curate_benches,
    download_bench,
    generate_bench,
    memory_bench,
    parse,
    planted_bench,
    select_bench,
    train_bench,
)
from pipelines.bench.planted import measure_planted
from pipelines.bench.select import measure_select
from pipelines.bench.tables import (
    curate_table,
    download_table,
    generate_table,
    memory_table,
    select_table,
    train_table,
    write_json,
)
from pipelines.bench.train import measure_loader, measure_train
from pipelines.demo.planted_recall import planted_table
from pipelines.engine.session import FAILURES

_CURATE = Path(__file__).with_name("curate.py")


def main(arguments: list[str] | None = None) -> int:
    """Run one of the measurements; returns the exit code."""
    options = parse(arguments, description=__doc__.split("\n")[0])
    hardware = describe_hardware()
    print(hardware, flush=True)
    try:
        results, table = _measure(options)
    except (BenchError, FileNotFoundError, *FAILURES) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(table)
    kept_promises = all(getattr(result, "is_good_enough", True) for result in results)
    if options.json:
        write_json(options.json, command=options.command, hardware=hardware, results=results)
    return 0 if kept_promises else 1


def _measure(options: argparse.Namespace) -> tuple[list[object], str]:
    if options.command == "download":
        sets = measure_download(download_bench(options), say=_say)
        return [*sets], download_table(sets)
    if options.command == "curate":
        runs = [measure_curate(bench, say=_say) for bench in curate_benches(options)]
        return [*runs], curate_table(runs)
    if options.command == "train":
        bench = train_bench(options)
        loaders = measure_loader(bench, say=_say) if bench.loader_rows else []
        result = measure_train(bench, say=_say)
        return [*loaders, result], train_table(loaders, result)
    if options.command == "generate":
        made = measure_generate(generate_bench(options), say=_say)
        return [made], generate_table(made)
    if options.command == "select":
        cuts = measure_select(select_bench(options), say=_say)
        return [*cuts], select_table(cuts)
    if options.command == "planted":
        findings = measure_planted(planted_bench(options), say=_say)
        return [findings], planted_table(findings)
    memory = measure_memory(memory_bench(options, script=_CURATE), say=_say)
    return [memory], memory_table(memory)


def _say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
