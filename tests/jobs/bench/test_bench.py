"""Every command of jobs.bench, on a handful of images; no time is asserted."""

import os
import time
from dataclasses import replace
from pathlib import Path

import cv2

from jobs.bench.browse import browse_table, measure_browse
from jobs.bench.engine import ideal_seconds
from jobs.bench.engine_step import WaitingStep
from jobs.bench.feed import feed_table, measure_feed
from jobs.bench.gated_step import read_spans
from jobs.bench.image_set import RealSize, make_image_set, read_real_sizes
from jobs.bench.ledger_case import make_facts
from jobs.bench.peer_part import PEER_PARTS, PeerResult
from jobs.bench.peers import PARTS, peers_table
from jobs.bench.process_memory import MemorySampler
from jobs.bench.select import CUTS, cut_ledger
from jobs.bench.tables import select_table
from jobs.bench.timed_server import serve
from pipelines.run.manifest import committed_shards
from pipelines.run.store import RunStore
from pipelines.steps.step import Resources


def test_pictures_have_the_sizes_that_were_asked_for(shared_data: Path, tmp_path: Path) -> None:
    sizes = [
        RealSize(width=1300, height=1100, num_bytes=200_000),
        RealSize(width=90, height=120, num_bytes=5_000),
    ]
    made = make_image_set(
        tmp_path, sizes=sizes, photos=shared_data / "photos" / "coco_mini", num_images=4
    )
    shapes = [cv2.imread(str(made.folder / name)).shape[:2] for name in made.names]
    assert sorted(shapes) == [(120, 90), (120, 90), (1100, 1300), (1100, 1300)]
    assert 0.7 * made.real_bytes < made.num_bytes <= made.real_bytes


def test_large_sizes_are_large(shared_data: Path) -> None:
    sizes = read_real_sizes(shared_data / "metadata", min_side_px=1024)
    assert len(sizes) > 300
    assert min(min(size.width, size.height) for size in sizes) >= 1024


def test_server_knows_when_it_was_asked_and_numbers_make_files_unique(tmp_path: Path) -> None:
    import urllib.request

    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8rest")
    with serve(tmp_path) as server:
        before = time.time()
        bodies = [
            urllib.request.urlopen(f"{server.url}/{path}").read()
            for path in ("a.jpg", "1/a.jpg", "2/a.jpg")
        ]
        times = server.take_times()
        assert server.take_times().count == 0
    assert len(set(bodies)) == 3
    assert all(body.startswith(b"\xff\xd8") and body.endswith(b"rest") for body in bodies)
    assert times.count == 3
    assert before <= times.first <= times.last <= time.time()


def test_memory_of_this_process_is_seen() -> None:
    import os

    with MemorySampler(os.getpid(), period_s=0.01) as memory:
        time.sleep(0.3)
    assert memory.peak.largest_of("python") == memory.peak.largest
    assert memory.peak.total > 10_000_000


def test_a_made_ledger_is_cut_in_each_way(tmp_path: Path) -> None:
    case = make_facts(tmp_path / "run", num_rows=600, metadata=tmp_path)  # no real sizes there
    results = [cut_ledger(cut, case) for cut in CUTS]
    for result in results:
        assert result.kept + sum(result.dropped.values()) == result.num_rows == 600
        assert result.dropped["http_not_found"] > 40
    assert results[0].dropped["ranked_below_best"] > 50
    assert results[1].dropped["duplicate_phash"] > 5
    assert len(select_table(results).splitlines()) == 2 + 2 * len(CUTS)


def test_the_feed_of_a_few_crops_tells_each_part_and_what_goals_need(shared_data: Path) -> None:
    parts, goals = measure_feed(
        4,
        photos=shared_data / "photos" / "coco_mini",
        metadata=shared_data / "metadata",
        say=lambda line: None,
    )
    assert {one.part: one.before_ms is not None for one in parts} == {
        **{"tar": False, "decode": False, "stack": True, "tokenize": False},
        **{"resample": True, "collate": False, "png": False},
    }
    assert [goal.step for goal in goals] == ["score", "encode", "train", "generate"]
    assert len(feed_table(parts, goals).splitlines()) == 2 + len(parts) + 1 + 2 + len(goals)


def test_a_promise_beside_a_peer_is_of_speed_and_of_memory() -> None:
    made = PeerResult(
        part="x", peer="y", unit="rows", amount=10, our_seconds=2, peer_seconds=3, min_ratio=1.25
    )
    assert made.is_good_enough
    assert not replace(made, min_ratio=1.6).is_good_enough
    assert not replace(made, min_per_second=6).is_good_enough
    heavy = replace(made, our_bytes=6, peer_bytes=10, max_memory_ratio=0.5)
    assert not heavy.is_good_enough
    assert "NO" in peers_table([made, heavy])
    assert {*PARTS} <= {*PEER_PARTS}


def test_the_ideal_counts_the_nodes_that_are_there() -> None:
    assert ideal_seconds(80.0, []) == 80
    assert ideal_seconds(80.0, [90.0]) == 80
    assert ideal_seconds(80.0, [20.0]) == 20 + 60 / 2
    assert ideal_seconds(80.0, [28.0, 26.0, 30.0]) == 30 + (80 - 26 - 2 * 2 - 2 * 3) / 4


def test_a_waiting_step_commits_and_notes_each_attempt(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path / "run"))
    step = WaitingStep(
        store=store, notes=tmp_path, name="score", resources=Resources(), wait_s=0.01, slow_times=9
    )
    step.open()
    step.run(3)
    (span,) = read_spans(tmp_path)
    assert (span.step, span.shard_id, span.pid) == ("score", 3, os.getpid())
    assert span.end - span.begin >= 0.09
    assert committed_shards(store, "score", step.fingerprint) == {3}


def test_the_page_over_a_made_run_is_asked_each_kind_of_question(tmp_path: Path) -> None:
    found = measure_browse(1_000, tmp_path / "none", tmp_path, say=lambda line: None)
    assert len(found) == 8
    assert browse_table(found).count(" s (at most ") == 8
