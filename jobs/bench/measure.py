"""Which measurement each command of jobs.bench is."""

import argparse
import time
from pathlib import Path

from jobs.bench.browse import browse_table, measure_browse
from jobs.bench.curate import measure_curate
from jobs.bench.download import measure_download
from jobs.bench.engine import engine_table, measure_engine
from jobs.bench.feed import feed_table, measure_feed
from jobs.bench.generate import measure_generate
from jobs.bench.memory import measure_memory
from jobs.bench.options import (
    curate_benches,
    download_bench,
    generate_bench,
    memory_bench,
    peers_bench,
    planted_bench,
    readers_bench,
    select_bench,
    train_bench,
)
from jobs.bench.peers import measure_peers, peers_table
from jobs.bench.planted import measure_planted
from jobs.bench.readers import measure_readers, readers_table
from jobs.bench.select import measure_select
from jobs.bench.tables import (
    curate_table,
    download_table,
    generate_table,
    memory_table,
    select_table,
    train_table,
)
from jobs.bench.takedown import TakedownBench, measure_takedown, takedown_table
from jobs.bench.text import TextBench, measure_text, text_findings_table
from jobs.bench.train import measure_loader, measure_train
from jobs.bench.why import measure_why, why_table
from jobs.demo.planted_recall import planted_table

_CURATE = Path(__file__).resolve().parents[1] / "curate.py"


def measure(options: argparse.Namespace) -> tuple[list[object], str]:
    """Results of the command, and the table that shows them."""
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
    if options.command == "takedown":
        asks = TakedownBench(
            shards=options.shards, rows_per_shard=options.rows_per_shard, urls=options.urls
        )
        done = measure_takedown(asks, say=_say)
        return [done], takedown_table(done)
    if options.command == "planted":
        findings = measure_planted(planted_bench(options), say=_say)
        return [findings], planted_table(findings)
    if options.command == "readers":
        read = measure_readers(readers_bench(options), say=_say)
        return [*read], readers_table(read)
    if options.command == "why":
        told = measure_why(options.rows, options.metadata, say=_say)
        return [*told], why_table(told)
    if options.command == "browse":
        seen = measure_browse(options.rows, options.metadata, options.photos, say=_say)
        return [*seen], browse_table(seen)
    if options.command == "engine":
        fed = measure_engine(options.part, shards=options.shards, say=_say)
        return [*fed], engine_table(fed)
    if options.command == "text":
        asked = TextBench(
            pictures=options.pictures, photos=options.photos, chinese_font=options.chinese_font
        )
        texts = measure_text(asked, say=_say)
        return [texts], text_findings_table(texts)
    if options.command == "peers":
        beside = measure_peers(options.part, peers_bench(options), say=_say)
        return [*beside], peers_table(beside)
    if options.command == "feed":
        parts, goals = measure_feed(
            options.images, photos=options.photos, metadata=options.metadata, say=_say
        )
        return [*parts, *goals], feed_table(parts, goals)
    memory = measure_memory(memory_bench(options, script=_CURATE), say=_say)
    return [memory], memory_table(memory)


def _say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)
