"""Bench: what the job costs, measured on this machine.

    python -m jobs.bench download   our download beside img2dataset's command
    python -m jobs.bench curate     the whole on Ray beside the sum of its steps
    python -m jobs.bench memory     peak memory at ten times the rows
    python -m jobs.bench train      training from the cache beside encoding online, and the loader
    python -m jobs.bench generate   bulk generation beside the plain diffusers pipeline
    python -m jobs.bench select     a ledger of 1,000,000 rows cut anew, duplicates included
    python -m jobs.bench takedown   rows taken out of a run of 10,000 small shards
    python -m jobs.bench planted    what select finds of pictures with planted truth
    python -m jobs.bench readers    what every reader finds of 3,000 shards; the price of a re-cut
    python -m jobs.bench why        the life of one row of a run of 1,000,000 rows, every --help
    python -m jobs.bench browse     the page over a run of 100,000 rows: its first view and filters
    python -m jobs.bench engine     how well the engine feeds workers that are slow, or come later
    python -m jobs.bench feed       the CPU's work for each image of a model, and cores a GPU needs
    python -m jobs.bench peers      ours beside own loops of peers' public patterns, by part
    python -m jobs.bench text       is text in pictures found where it was drawn, and only there
    python -m jobs.bench gpu        what a GPU reaches of its limits, and what fails on one

Exit codes: `ExitCode` in sd_core/errors.py; a promise about planted pictures or texts, what readers
find, the time of `why` and `browse`, the engine or beside a peer that is not kept is 1, as is an
item of `gpu` that failed or was too slow.
"""

import argparse
import sys

from jobs.bench.options import parse
from jobs.command_line import check_output_file, run_job
from jobs.exit_codes import ExitCode, exit_code_table
from jobs.hardware import describe_hardware
from sd_core.errors import InputError
from sd_core.say import Say


def main(arguments: list[str] | None = None) -> int:
    """Run one of the measurements; returns the exit code."""
    description = (__doc__ or "").split("\n")[0]
    options = parse(arguments, description=description, epilog=exit_code_table())
    run = _run_gpu if options.command == "gpu" else _run
    return run_job(lambda say: run(options, say))


def _run_gpu(options: argparse.Namespace, say: Say) -> int:
    """Apart from the others, which need Ray, img2dataset and more."""
    import torch

    from jobs.bench.gpu.measure import GpuBench, gpu_table, measure_gpu

    if not (options.tiny or torch.cuda.is_available()):
        raise InputError("torch sees no GPU here; --tiny does all of it with tiny models on a CPU")
    if options.json:
        check_output_file(options.json, "--json")
    hardware = describe_hardware()
    print(hardware, flush=True)
    bench = GpuBench(
        names=options.item, budget_s=options.budget, is_tiny=options.tiny, json=options.json
    )
    outcomes = measure_gpu(bench, hardware, say=say)
    print(gpu_table(outcomes))
    is_whole = all(outcome.state in ("done", "no time left") for outcome in outcomes)
    return ExitCode.DONE if is_whole else ExitCode.FAILED


def _run(options: argparse.Namespace, say: Say) -> int:
    from jobs.bench.measure import measure
    from jobs.bench.tables import write_json

    if options.json:
        check_output_file(options.json, "--json")
    hardware = describe_hardware()
    print(hardware, flush=True)
    try:
        results, table = measure(options)
    except FileNotFoundError as error:  # the photographs, or a list of sizes
        raise InputError(str(error)) from error
    print(table)
    kept_promises = all(getattr(result, "is_good_enough", True) for result in results)
    if options.json:
        write_json(options.json, command=options.command, hardware=hardware, results=results)
    return ExitCode.DONE if kept_promises else ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
