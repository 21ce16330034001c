"""Bench: what the job costs, measured on this machine.

    python -m jobs.bench download   our download beside img2dataset's command
    python -m jobs.bench curate     the whole on Ray beside the sum of its steps
    python -m jobs.bench memory     peak memory at ten times the rows
    python -m jobs.bench train      training from the cache beside encoding online, and the loader
    python -m jobs.bench generate   bulk generation beside the plain diffusers pipeline
    python -m jobs.bench select     a ledger of 1,000,000 rows cut anew, duplicates included
    python -m jobs.bench planted    what select finds of pictures with planted truth

Exit codes: `ExitCode` in sd_core/errors.py; a promise about planted pictures that is not kept
is 1.
"""

import argparse
import sys
import time
from pathlib import Path

from jobs.bench.curate import measure_curate
from jobs.bench.download import measure_download
from jobs.bench.generate import measure_generate
from jobs.bench.hardware import describe_hardware
from jobs.bench.memory import measure_memory
from jobs.bench.options import (
    curate_benches,
    download_bench,
    generate_bench,
    memory_bench,
    parse,
    planted_bench,
    select_bench,
    train_bench,
)
from jobs.bench.planted import measure_planted
from jobs.bench.select import measure_select
from jobs.bench.tables import (
    curate_table,
    download_table,
    generate_table,
    memory_table,
    select_table,
    train_table,
    write_json,
)
from jobs.bench.train import measure_loader, measure_train
from jobs.command_line import Say, check_output_file, run_job
from jobs.demo.planted_recall import planted_table
from jobs.exit_codes import ExitCode, exit_code_table
from sd_core.errors import InputError

_CURATE = Path(__file__).resolve().parents[1] / "curate.py"


def main(arguments: list[str] | None = None) -> int:
    """Run one of the measurements; returns the exit code."""
    description = (__doc__ or "").split("\n")[0]
    options = parse(arguments, description=description, epilog=exit_code_table())
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    if options.json:
        check_output_file(options.json, "--json")
    hardware = describe_hardware()
    print(hardware, flush=True)
    try:
        results, table = _measure(options)
    except FileNotFoundError as error:  # the photographs, or a list of sizes
        raise InputError(str(error)) from error
    print(table)
    kept_promises = all(getattr(result, "is_good_enough", True) for result in results)
    if options.json:
        write_json(options.json, command=options.command, hardware=hardware, results=results)
    return ExitCode.DONE if kept_promises else ExitCode.FAILED


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
