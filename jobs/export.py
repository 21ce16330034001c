"""Export: the kept set of a run, written for others to read.

    python jobs/export.py /data/run --to /data/set --format webdataset
    python jobs/export.py /data/run --to s3://bucket/set --format huggingface \\
        --where "aesthetic_v2 >= 6 and source_licence = 'CC0'" --limit 10000

Formats: webdataset (tars), parquet (one table a shard, the image's bytes in it), huggingface (the
same as `load_dataset` finds it), folder (files and `metadata.jsonl`). What is there is checked
against what was committed. The same command goes on after a stop.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys

from jobs.command_line import add_limit, add_run, job_parser, open_named_run, run_job
from jobs.exit_codes import ExitCode
from sd_core.home import expand_home
from sd_core.say import Say

FORMATS = ("webdataset", "parquet", "huggingface", "folder")


def main(arguments: list[str] | None = None) -> int:
    """Write the set; returns the exit code."""
    options = make_parser().parse_args(arguments)
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.revisions.export import ExportOptions, export_run

    asked = ExportOptions(
        format=options.format,
        where=options.where,
        limit=options.limit,
        columns=None if options.columns is None else _names(options.columns),
        latents=options.latents,
    )
    run = open_named_run(options)
    made = export_run(run, run.store.other(options.to).at_top(), asked, say=say)
    print(f"{options.to}: {made.rows:,} rows in {made.shards:,} shards")
    if not made.rows:
        print("no kept row is left to write; see --where", file=sys.stderr)
        return ExitCode.NOTHING_KEPT
    return ExitCode.DONE


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_run(parser)
    parser.add_argument(
        "--to", required=True, type=expand_home, help="a new folder: an absolute path or a URL"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="how it is written")
    parser.add_argument("--where", metavar="SQL", help="a condition on the ledger's columns")
    add_limit(parser, of="rows")
    parser.add_argument("--columns", help="of the ledger, by commas; all by default, '' for none")
    parser.add_argument("--latents", action="store_true", help="each row's latents as well (npy)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
