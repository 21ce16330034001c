"""What `python -m jobs.demo` does, from the pictures to the last training."""

import argparse
import sys

from jobs.demo.contact_sheet import choose_rows, draw_contact_sheet
from jobs.demo.local_cluster import LocalCluster
from jobs.demo.local_run import (
    PROJECT,
    LocalFolder,
    job_cluster,
    start_afresh,
    submit_job,
    verify_deeply,
)
from jobs.demo.outcome import read_outcomes
from jobs.demo.pictures import DEMO_SEED, write_pictures
from jobs.demo.pixels import read_images
from jobs.demo.prompts import draw_generated, write_prompts
from jobs.demo.recall import findings_table, judge_outcomes
from jobs.demo.server import LoopbackServer
from jobs.demo.url_list import bad_url_rows, choose_bad_urls, mix, write_list
from jobs.exit_codes import ExitCode
from pipelines.report.page import write_report
from pipelines.run.store import RunStore
from pipelines.training.samples import newest_sample_grid

_CURATE = PROJECT / "configs/curate/demo.yaml"
_TRAIN = PROJECT / "configs/train/demo.yaml"
_GENERATE = PROJECT / "configs/generate/demo.yaml"


def show(options: argparse.Namespace) -> int:
    """Run the demo with the options of its command line; returns the exit code."""
    folder = start_afresh(options.output, say=_say)
    with job_cluster(say=_say) as cluster:
        with LoopbackServer(folder.served, port=options.port) as server:
            num_rows = _write_input(folder, server.url, options)
            _say(f"serving {num_rows} rows of a list on {server.url}: {folder.url_list}")
            settings = [f"output={folder.run}", f"source.path={folder.url_list}"]
            submit_job(cluster, "jobs/curate.py", _CURATE, settings=settings, say=_say)
        verify_deeply(folder.run, say=_say)
        settings = [f"output={folder.training}", f"data.0.path={folder.run}/latents"]
        settings.append(f"loop.steps={options.training_steps}")
        submit_job(cluster, "jobs/train.py", _TRAIN, settings=settings, say=_say)
        _generate(cluster, folder, options)
    return _report(folder)


def _generate(cluster: LocalCluster, folder: LocalFolder, options: argparse.Namespace) -> None:
    """Make images with the trained model, and train on with them among the curated ones."""
    write_prompts(folder.prompts, count=options.prompts)
    settings = [
        f"output={folder.generated}",
        f"prompts.path={folder.prompts}",
        f"generate.model.model={folder.training / 'model'}",
    ]
    submit_job(cluster, "jobs/generate.py", _GENERATE, settings=settings, say=_say)
    verify_deeply(folder.generated, say=_say)
    curated, synthetic = folder.run / "latents", folder.generated / "latents"
    settings = [
        f"output={folder.mixed_training}",
        f"model.model={folder.training / 'model'}",
        f"data=[{{path: {curated}, weight: 3}}, {{path: {synthetic}, weight: 1}}]",
        f"loop.steps={options.mixed_steps}",
        f"loop.sample_every={options.mixed_steps}",
    ]
    submit_job(cluster, "jobs/train.py", _TRAIN, settings=settings, say=_say)


def _write_input(folder: LocalFolder, server: str, options: argparse.Namespace) -> int:
    seed = DEMO_SEED if options.seed is None else options.seed
    pictures = write_pictures(folder.served, count=options.pictures, server=server, seed=seed)
    bad = bad_url_rows(choose_bad_urls(options.bad_urls), server=server)
    rows = mix(pictures, bad, seed=seed)
    write_list(rows, folder.url_list)
    return len(rows)


def _report(folder: LocalFolder) -> int:
    store = RunStore(str(folder.run))
    outcomes = read_outcomes(store)
    selection = choose_rows(outcomes)
    draw_contact_sheet(
        selection,
        read_images(store, (row.key for row in selection.shown)),
        folder.contact_sheet,
        title=f"{len(outcomes):,} rows, {selection.kept.rows:,} kept",
    )
    generated = draw_generated(RunStore(str(folder.generated)), folder.generated_grid)
    findings = judge_outcomes(outcomes)
    print()
    print(findings_table(findings))
    print()
    print(f"run:           {folder.run}")
    print(f"report:        {write_report(store)}")
    print(f"contact sheet: {folder.contact_sheet}")
    print(f"training:      {folder.training}")
    print(f"loss curve:    {folder.training / 'loss_curve.png'}")
    print(f"samples:       {newest_sample_grid(folder.training)}")
    print(f"model:         {folder.training / 'model'} (StableDiffusionPipeline opens it)")
    print(f"generation:    {folder.generated}, {generated} images kept, in a cache of their own")
    print(f"images:        {folder.generated_grid}")
    print(f"report:        {write_report(RunStore(str(folder.generated)))}")
    print(f"mixed:         {folder.mixed_training} (curated and generated, 3 to 1)")
    if not findings.is_good_enough:
        print("failed: short of what is asked, see above", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.DONE


def _say(line: str) -> None:
    print(line, flush=True)
