"""Takedown: remove rows from a curated or generated run, and keep them out.

    python jobs/takedown.py /data/run --urls /lists/urls.txt
    python jobs/takedown.py /data/run --keys keys.txt --domains domains.txt --sha256 hashes.txt
    python jobs/takedown.py /data/images --keys image_keys.txt --prompts prompt_keys.txt
    python jobs/takedown.py /data/images --sources keys.txt     # images that started from these
    python jobs/takedown.py /data/images --taken-down-in /data/run      # whatever was taken down

Rows whose files have the same bytes go with them. Lists hold one entry a line (or are Parquet with
one column). Images, latents, facts, ledger, prompts and everything else of the rows leave the
current revision at once; jobs/clean.py then removes the files of earlier ones. What was taken down
is kept as digests, so that neither a retry nor a grown list brings it back. A takedown that was
interrupted is finished by running it, or the job, again.

Entries that no row has are counted and named in `takedown/unmatched.json` of the run; with
`--must-match` they make the exit code 1. The report is removed and the card made anew. Trainings
that saw the rows, and generations that started from them, are listed, as far as they left word in
`used_by` of the run; `--trainings` looks at a folder of their outputs besides.

Exit codes: `ExitCode` in sd_core/errors.py; `--help` lists them.
"""

import argparse
import sys

from jobs.command_line import add_run, job_parser, open_store, run_job
from jobs.exit_codes import ExitCode
from sd_core.home import expand_home
from sd_core.say import Say

_KINDS = {
    "keys": "keys of rows, or of generated images",
    "urls": "URLs",
    "domains": "domains",
    "sha256": "sha256 digests of originals as downloaded, or of generated image files",
    "prompts": "prompt keys: every image of a prompt",
    "sources": "init keys: every image that started from one",
}


def main(arguments: list[str] | None = None) -> int:
    """Take rows down; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if all(getattr(options, kind) is None for kind in (*_KINDS, "taken_down_in")):
        parser.error("give a list: " + ", ".join(f"--{kind}" for kind in _KINDS))
    return run_job(lambda say: _run(options, say))


def _run(options: argparse.Namespace, say: Say) -> int:
    from pipelines.report.card import write_card
    from pipelines.revisions.takedown import take_down
    from pipelines.revisions.takedown_lists import read_takedown_lists, sources_taken_down
    from pipelines.revisions.unmatched import UNMATCHED_FILE
    from pipelines.revisions.uses import find_trainings
    from pipelines.rules.tombstones import tombstones_of
    from pipelines.run.folder import require_run
    from pipelines.run.lease import Lease

    store = open_store(options)
    require_run(store)
    entries = read_takedown_lists(store, {kind: getattr(options, kind) for kind in _KINDS})
    trainings = list(find_trainings(store, options.trainings))
    with Lease(store, say=say):
        if options.taken_down_in is not None:
            found = sources_taken_down(store, store.other(options.taken_down_in))
            say(f"{len(found):,} source(s) of these images are taken down in their run")
            entries = {**entries, "sources": [*entries.get("sources", ()), *found]}
        done = take_down(store, tombstones_of(**entries), say=say, entries=entries)
        write_card(store)
    print(f"{done.num_rows:,} row(s) in {done.num_shards:,} shard(s) are taken down: {options.run}")
    for line in (*done.uses, *trainings):
        print(line)
    if done.num_rows:
        print(f"now remove the old files: latent-foundry clean {options.run} --grace 0")
    where = store.place(UNMATCHED_FILE)
    return _tell_unmatched(done.unmatched, where, must_match=options.must_match)


def _tell_unmatched(count: int, where: str, *, must_match: bool) -> ExitCode:
    if count:
        told = f"{count:,} entry(s) match no row; {where} names them"
        print(f"failed: {told}" if must_match else told, file=sys.stderr if must_match else None)
    return ExitCode.FAILED if count and must_match else ExitCode.DONE


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = job_parser(__doc__)
    add_run(parser)
    for kind, told in _KINDS.items():
        parser.add_argument(f"--{kind}", metavar="LIST", type=expand_home, help=f"a list of {told}")
    parser.add_argument(
        "--taken-down-in",
        metavar="RUN",
        type=expand_home,
        help="of a generated run: images that started from rows that were taken down in that one",
    )
    parser.add_argument(
        "--trainings",
        metavar="PATH",
        type=expand_home,
        help="look for trainings on the run in this folder of their outputs, beside those that "
        "left word in its used_by",
    )
    parser.add_argument(
        "--must-match", action="store_true", help="exit with 1 where an entry matches no row"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
