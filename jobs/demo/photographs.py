"""Curate real photographs with real model sizes, bad URLs among them, and check what came of it.

    python -m jobs.demo.photographs --photos FOLDER       (or: make photographs PHOTOS=FOLDER)

The folder holds JPEGs and `captions.jsonl` (`file`, `captions`). They are served on loopback and
curated by configs/curate/photographs.yaml, submitted to a local Ray cluster.

Exit codes: `ExitCode` in sd_core/errors.py; a check that does not hold is 1.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean

from jobs.command_line import job_parser, run_job
from jobs.demo.local_run import (
    PROJECT,
    LocalFolder,
    job_cluster,
    start_afresh,
    submit_job,
    verify_deeply,
)
from jobs.demo.outcome import read_outcomes
from jobs.demo.recall import GOOD, bad_url_table, judge_outcomes
from jobs.demo.server import LoopbackServer
from jobs.demo.url_list import ListRow, bad_url_rows, choose_bad_urls, mix, write_list
from jobs.exit_codes import ExitCode
from pipelines.run.store import RunStore
from sd_core.errors import InputError

_CONFIG = PROJECT / "configs/curate/photographs.yaml"
_SEED = 20_000_000
_SIZE_PX = 512
_DECODED = 30
_MIN_PSNR_DB = 25.0


def main(arguments: list[str] | None = None) -> int:
    """Run and check; returns the exit code."""
    options = _parse(arguments)
    return run_job(lambda say: _run(options))


def _run(options: argparse.Namespace) -> int:
    head = options.heads.resolve() / "aesthetic-predictor/sa_0_4_vit_b_32_linear.pth"
    autoencoder = options.autoencoder.resolve()
    for needed in (options.photos / "captions.jsonl", head, autoencoder):
        if not needed.exists():
            raise InputError(f"there is nothing at {needed}")
    folder = start_afresh(options.output, say=_say)
    with LoopbackServer(options.photos, port=options.port) as server:
        photographs = _read_photographs(options.photos, server.url)[: options.count]
        bad = bad_url_rows(choose_bad_urls(options.bad_urls), server=server.url)
        write_list(mix(photographs, bad, seed=_SEED), folder.url_list)
        _say(f"serving {len(photographs)} photographs and {len(bad)} bad URLs on {server.url}")
        settings = [
            f"output={folder.run}",
            f"source.path={folder.url_list}",
            f"score.aesthetic_v1.weights={head}",
            f"encode.autoencoder.model={autoencoder}",
        ]
        with job_cluster(say=_say) as cluster:
            submit_job(cluster, "jobs/curate.py", _CONFIG, settings=settings, say=_say)
    verify_deeply(folder.run, say=_say)
    return _check(folder, num_rows=len(photographs) + len(bad), autoencoder=autoencoder)


def _read_photographs(photos: Path, server: str) -> list[ListRow]:
    lines = (photos / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    try:
        entries = [json.loads(line) for line in lines]
        return [
            ListRow(url=f"{server}/{entry['file']}", caption=entry["captions"][0], planted=GOOD)
            for entry in entries
        ]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{photos}/captions.jsonl: not a line of `file` and `captions` each: "
            f"{type(error).__name__}: {error}"
        ) from error


def _check(folder: LocalFolder, *, num_rows: int, autoencoder: Path) -> int:
    from jobs.demo.pixels import describe_other_images, measure_psnr
    from pipelines.report.page import write_report
    from sd_core.model.autoencoder_config import AutoencoderConfig

    store = RunStore(str(folder.run))
    outcomes = read_outcomes(store)
    print()
    print(bad_url_table(outcomes))
    findings = judge_outcomes(outcomes)
    kept = findings.good
    others = describe_other_images(store, size=_SIZE_PX)
    psnr = measure_psnr(store, AutoencoderConfig(model=str(autoencoder)), count=_DECODED)
    mean_psnr = fmean(psnr) if psnr else 0.0
    checks = {
        f"{len(outcomes)} of {num_rows} rows accounted for": len(outcomes) == num_rows,
        f"{findings.bad_urls.right} of {findings.bad_urls.rows} bad URLs under their reason": (
            not findings.surprises
        ),
        f"{kept.right} of {kept.rows} photographs kept": kept.right == kept.rows,
        f"images that are not {_SIZE_PX}x{_SIZE_PX} RGB8: {', '.join(others) or 'none'}": (
            not others
        ),
        f"{len(psnr)} latents decode to {mean_psnr:.2f} dB mean PSNR against the stored crops "
        f"(at least {_MIN_PSNR_DB:g} is asked)": mean_psnr >= _MIN_PSNR_DB,
    }
    print()
    for text, holds in checks.items():
        print(f"{'ok    ' if holds else 'FAILED'}  {text}")
    print(f"run: {folder.run}")
    print(f"report: {write_report(store)}")
    return ExitCode.DONE if all(checks.values()) else ExitCode.FAILED


def _say(line: str) -> None:
    print(line, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = job_parser(__doc__, prog="python -m jobs.demo.photographs")
    parser.add_argument("--photos", type=Path, required=True, help="JPEGs and captions.jsonl")
    parser.add_argument("--heads", type=Path, help="LAION's heads; default PHOTOS/../../heads")
    parser.add_argument(
        "--autoencoder", type=Path, help="TAESD; default PHOTOS/../../autoencoders/taesd"
    )
    parser.add_argument("--count", type=int, help="only the first photographs")
    parser.add_argument("--bad-urls", type=int, default=40, help="a kind for every reason first")
    parser.add_argument("--port", type=int, default=18472, help="0 takes any free one")
    parser.add_argument(
        "--output", type=Path, default=PROJECT / "runs/photographs", help="cleared first"
    )
    options = parser.parse_args(arguments)
    options.heads = options.heads or options.photos / "../../heads"
    options.autoencoder = options.autoencoder or options.photos / "../../autoencoders/taesd"
    return options


if __name__ == "__main__":
    sys.exit(main())
