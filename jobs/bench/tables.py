"""Results as text for people and as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.bench.curate import CurateResult
from jobs.bench.download import SetResult, SideRun, median_rate
from jobs.bench.generate import GenerateResult
from jobs.bench.memory import MemoryResult
from jobs.bench.select import SelectResult
from jobs.bench.train import LoaderResult, TrainBenchResult
from jobs.hardware import Hardware


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        parts = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def download_table(results: Sequence[SetResult]) -> str:
    """Both sides of every set, and under them what the figures mean."""
    rows, notes = [], []
    for result in results:
        sides: list[tuple[str, str, list[SideRun]]] = [
            ("img2dataset", result.img2dataset_concurrency, result.img2dataset),
            ("ours", result.our_concurrency, result.ours),
        ]
        for side, concurrency, runs in sides:
            is_ours = side == "ours"
            rows.append(
                [
                    f"{result.name}: {side}",
                    concurrency,
                    f"{median_rate(runs):.1f}",
                    f"{result.ratio:.2f}" if is_ours else "",
                    f"{result.our_cpu_ms if is_ours else result.img2dataset_cpu_ms:.2f}",
                    f"{result.cpu_ratio:.2f}" if is_ours else "",
                    megabytes(max(run.peak_memory_bytes for run in runs)),
                    megabytes(max(run.largest_process_bytes for run in runs)),
                    _decibels(result.fidelity.mean_db) if is_ours else "",
                    _decibels(result.fidelity.min_db) if is_ours else "",
                ]
            )
        notes.append(
            f"{result.name}: {result.num_images} JPEGs, median short side "
            f"{result.median_short_side_px} px, {result.num_bytes / 1e6:.0f} MB (the real ones: "
            f"{result.real_bytes / 1e6:.0f} MB); PSNR over the {result.fidelity.num_scaled} that "
            "are decoded at a smaller scale; img2dataset by processes x threads: "
            + ", ".join(f"{name}: {rate:.0f}" for name, rate in result.grid.items())
        )
    head = ["set: side", "processes x threads", "images/s", "ratio", "CPU ms", "ratio"]
    head += ["memory MB", "largest MB", "PSNR dB", "lowest"]
    return "\n".join([text_table(head, rows), *notes])


def megabytes(num_bytes: int | None) -> str:
    """Whole megabytes (10^6); a dash where there is no figure."""
    return "-" if num_bytes is None else f"{num_bytes / 1e6:.0f}"


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def curate_table(results: Sequence[CurateResult]) -> str:
    """Each step alone, the whole, and both ratios."""
    head = ["job", "images", "download s", "score s", "select s", "encode s", "sum s"]
    head += ["whole s", "/ sum", "/ models"]
    rows = [
        [
            f"{result.name} ({result.models} models, answers after {result.delay_s:g} s)",
            str(result.num_rows),
            *(f"{seconds:.1f}" for seconds in result.alone.values()),
            f"{sum(result.alone.values()):.1f}",
            f"{result.whole:.1f}",
            f"{result.to_sum:.2f}",
            f"{result.to_model_work:.2f}",
        ]
        for result in results
    ]
    return text_table(head, rows)


def memory_table(result: MemoryResult) -> str:
    """Each role's peak at both sizes."""
    head = ["process", f"MB at {result.few_rows} rows", f"MB at {result.many_rows} rows", "ratio"]
    rows = [
        [role.role, megabytes(role.few_bytes), megabytes(role.many_bytes), f"{role.ratio:.2f}"]
        for role in result.roles
    ]
    return text_table(head, rows)


def train_table(loaders: Sequence[LoaderResult], result: TrainBenchResult) -> str:
    """What the loader feeds, then training from the cache beside encoding online."""
    loader = text_table(
        ["loader, 4 x 64 x 64 float16", "latents/s", "training samples/s"],
        [
            [
                f"{one.form} in {one.format}",
                f"{one.drawn_per_second:,.0f}",
                f"{one.batches_per_second:,.0f}",
            ]
            for one in loaders
        ],
    )
    training = text_table(
        ["training", "cached images/s", "online images/s", "ratio", "of the FLOP limit"],
        [
            [
                f"{result.models} models on {result.device}",
                f"{result.cached_per_second:.1f}",
                f"{result.online_per_second:.1f}",
                f"{result.ratio:.2f}",
                f"{result.flops_share:.0%}",
            ]
        ],
    )
    return f"{loader}\n\n{training}" if loaders else training


def generate_table(result: GenerateResult) -> str:
    """Ours beside the plain pipeline, one prompt at a time and at the same batch size."""
    head = ["generation", "ours images/s", "one at a time", "ratio", "batched", "ratio"]
    head.append("of the FLOP limit")
    row = [
        f"{result.models} models on {result.device}, batches of {result.batch_size}",
        f"{result.ours_per_second:.2f}",
        f"{result.single_per_second:.2f}",
        f"{result.ratio:.2f}",
        f"{result.batched_per_second:.2f}",
        f"{result.batched_ratio:.2f}",
        f"{result.flops_share:.0%}",
    ]
    return text_table(head, [row])


def select_table(results: Sequence[SelectResult]) -> str:
    """Each cut at each size, and how its cost grows from the smallest."""
    head = ["cut", "rows", "seconds", "us a row", "peak MB", "kept", "times the first's"]
    first = {result.cut: result for result in reversed(results)}
    rows = [
        [
            result.cut,
            f"{result.num_rows:,}",
            f"{result.seconds:.1f}",
            f"{result.seconds / result.num_rows * 1e6:.1f}",
            megabytes(result.peak_bytes),
            f"{result.kept:,}",
            f"{result.seconds / first[result.cut].seconds:.1f}",
        ]
        for result in results
    ]
    counts = [
        f"{result.cut}, {result.num_rows:,} rows dropped: "
        + ", ".join(f"{reason} {count:,}" for reason, count in result.dropped.items())
        for result in results
    ]
    return "\n".join([text_table(head, rows), *counts])


def write_json(path: Path, *, command: str, hardware: Hardware, results: Sequence[Any]) -> None:
    """Write a command's results (dataclasses) to a file."""
    tree = {
        "command": command,
        "hardware": asdict(hardware),
        "results": [asdict(result) | _ratios(result) for result in results],
    }
    path.write_text(json.dumps(tree, indent=1) + "\n")


def _ratios(result: object) -> dict[str, float]:
    names = ("ratio", "batched_ratio", "cpu_ratio", "to_sum", "to_model_work")
    return {name: getattr(result, name) for name in names if hasattr(result, name)}
