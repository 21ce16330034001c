"""Verify: every promise of a run that can be read off its files.

    python jobs/verify.py /data/run
    python jobs/verify.py s3://bucket/run --deep

Prints the faults, one a line, as `where: what was found, what was expected`. Credentials of an
object store come from its own environment variables (AWS_*, FSSPEC_*).

Exit codes: 0 no fault, 1 faults, 2 not a run.
"""

import argparse
import sys

from pipelines.storage import RunStore, StorageError
from pipelines.verify import Fault, NotARunError, verify_run


def main(arguments: list[str] | None = None) -> int:
    """Verify a run; returns the exit code."""
    options = _parse(arguments)
    num_faults = 0
    try:
        for finding in verify_run(RunStore(options.run), deep=options.deep):
            if isinstance(finding, Fault):
                num_faults += 1
                print(finding, flush=True)
            else:
                print(f"note: {finding}", file=sys.stderr, flush=True)
    except (NotARunError, StorageError) as error:
        print(error, file=sys.stderr)
        return 2
    depth = "deep" if options.deep else "counts and sizes only; --deep reads the files"
    print(f"{options.run}: {num_faults} fault(s) ({depth})", file=sys.stderr)
    return 1 if num_faults else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="the run's folder: an absolute path or an fsspec URL")
    parser.add_argument("--deep", action="store_true", help="read every file whole")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
