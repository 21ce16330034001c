"""Rows that lie, by the hundred in one list: each ends once, with a reason, and harms no other."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.demo.bad_answers import answer, raw, redirect
from jobs.demo.exchange import Handler
from jobs.demo.server import LoopbackServer
from pipelines.rows.ledger import REASONS
from tests.contracts import generation_cases, job_cases
from tests.hostile import bad_answers, bad_urls
from tests.hostile.protocols import check_ending
from tests.hostile.tally import SHARE, Tally
from tests.hostile.world import World, faults_of
from tests.pipelines.steps.download.mutations import drawn_originals, mutations

pytestmark = pytest.mark.slow
SIZE = 32
_EACH = 10  # bad rows to a good one


def _latin(url: str) -> str:
    """As a server sends it: UTF-8, read as Latin-1."""
    return url.strip().encode().decode("latin-1")


def _picture(number: int) -> bytes:
    shades = np.random.default_rng(number).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(shades).save(stream, "PNG")
    return stream.getvalue()


class Beside:
    """Good rows among bad ones: what is stored of them is known from a run of their own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.pictures = [_picture(number) for number in range(20)]

    def curate(
        self, urls: Sequence[str], server: LoopbackServer, *, case: Path, **options: Any
    ) -> dict[str, str | None]:
        """Download the URLs with good ones between them; gives each URL's reason."""
        mixed: list[str] = []
        for at, url in enumerate(urls):
            if at % _EACH == 0:
                mixed.append(f"{server.url}/good-{at // _EACH % 20}?{at}")
            mixed.append(url)
        table = pa.table({"URL": mixed, "TEXT": [f"row {n}" for n in range(len(mixed))]})
        pq.write_table(table, case / "list.parquet")
        settings = {
            "plan__rows_per_shard": 150,
            "image__size": SIZE,
            "download__timeout_s": 2.0,
            "download__allow_networks": "[127.0.0.1/32]",
        }
        arguments = job_cases.curate(
            case / "list.parquet", case / "run", "--steps", "download", **(settings | options)
        )
        check_ending(self._world.command("curate", *arguments, folder=case, deadline_s=300), 0)
        assert faults_of(case / "run") == []
        return self._reasons(case / "run", mixed)

    def _reasons(self, run: Path, mixed: Sequence[str]) -> dict[str, str | None]:
        tables = [
            pq.read_table(p) for p in sorted((run / "_work/facts/download").glob("0*.parquet"))
        ]
        rows = pa.concat_tables(tables).sort_by([("shard_id", "ascending"), ("row", "ascending")])
        assert rows.num_rows == len(mixed), "rows in = rows out"
        found = rows.to_pylist()
        digests = {hashlib.sha256(picture).hexdigest() for picture in self.pictures}
        for row, url in zip(found, mixed, strict=True):
            assert row["reason"] is None or row["reason"] in REASONS, row
            if "/good-" in url:
                assert row["reason"] is None, row
                assert row["sha256"] in digests, row
        return {url: row["reason"] for url, row in zip(mixed, found, strict=True)}

    def handlers(self, bad: Mapping[str, Handler]) -> dict[str, Handler]:
        """The bad paths, and the good ones."""
        good = {f"/good-{n}": answer(200, picture) for n, picture in enumerate(self.pictures)}
        return {**bad, **good}


def test_no_form_of_a_forbidden_address_is_connected_to(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied, beside = tally("bad input: URLs and addresses"), Beside(world)
    dice, count = tallied.random, max(40, round(700 * SHARE))
    with bad_urls.canary() as canary:
        direct = bad_urls.urls(dice, port=canary.port, count=count)
        hops = {f"/hop-{n}": redirect(_latin(url)) for n, url in enumerate(direct[: count // 3])}
        with LoopbackServer(handlers=beside.handlers(hops)) as server:
            urls = [*direct, *(f"{server.url}{path}" for path in hops)]
            reasons = beside.curate(urls, server, case=world.new("urls"))
    kept = [url for url in urls if reasons[url] is None]
    told = [f"kept: {url!r}" for url in kept]
    told += [f"connected: {sent!r}" for sent in canary.touched]
    tallied.count(len(urls), told)
    tallied.close()


def test_no_answer_of_a_server_costs_more_than_its_row(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied, beside = tally("bad input: HTTP answers"), Beside(world)
    count = max(30, round(300 * SHARE))
    image = _picture(99)
    bad = {f"/bad-{n}": raw(bad_answers.broken(tallied.random, image)) for n in range(count)}
    with LoopbackServer(handlers=beside.handlers(bad)) as server:
        urls = [f"{server.url}{path}" for path in bad]
        beside.curate(urls, server, case=world.new("answers"), download__threads=32)
    tallied.count(count)
    tallied.close()


def test_no_mutated_image_costs_more_than_its_row(
    world: World, tally: Callable[[str], Tally]
) -> None:
    tallied, beside = tally("bad input: mutated images"), Beside(world)
    count = max(50, round(500 * SHARE))
    made = mutations(drawn_originals(), count=count, seed=tallied.random.randrange(1 << 30))
    bad = {f"/bad-{n}": answer(200, mutation.data) for n, mutation in enumerate(made)}
    with LoopbackServer(handlers=beside.handlers(bad)) as server:
        urls = [f"{server.url}{path}" for path in bad]
        beside.curate(urls, server, case=world.new("images"), download__timeout_s=30.0)
    tallied.count(count)
    tallied.close()


_ODD_PROMPTS: dict[str, Sequence[Any]] = {
    "prompt": ("", " ", None, "\0", "a" * 5000, "<script>", "\ud7ff\u202e", "a\nb", "🟥" * 90),
    "negative_prompt": (None, "", "\0", "b" * 5000),
    "seed": (None, -1, 0, 2**31, 2**62),
    "guidance_scale": (None, float("nan"), float("inf"), -1.0, 0.0, 1e30, 1e-30),
    "num_inference_steps": (None, 0, -1, 1, 2, 10**6),
    "sampler": (None, "", "euler_a", "nothing", "DPM++ 2M Karras", "../../x"),
    "width": (None, 0, -8, 7, 64, 65, 10**6),
    "key": (None, "", "x", "../x", "a/b", "x\n", "\0", "k" * 300),
}


def test_no_prompt_costs_more_than_its_row(world: World, tally: Callable[[str], Tally]) -> None:
    tallied = tally("bad input: prompts")
    dice, count = tallied.random, max(12, round(120 * SHARE))
    rows = [
        {
            name: (
                f"{value} {number}" if name == "prompt" and value and dice.random() < 0.5 else value
            )
            for name, values in _ODD_PROMPTS.items()
            for value in [dice.choice(values) if dice.random() < 0.3 else values[0]]
        }
        for number in range(count)
    ]
    good = [{"prompt": f"a large red circle {n}", "key": f"good-{n}"} for n in range(4)]
    case = world.new("prompts")
    path = generation_cases.write_prompts(case / "prompts.parquet", [*good, *rows])
    arguments = job_cases.generate(path, case / "run", plan__images_per_shard=16)
    check_ending(world.command("generate", *arguments, folder=case), 0)
    assert faults_of(case / "run") == []
    ledger = generation_cases.table(case / "run", "ledger").to_pylist()
    failed = [
        f"{row['key']} {row['reason']}" for row in ledger if row["reason"] not in {*REASONS, None}
    ]
    kept = {row["key"] for row in ledger if row["kept"]}
    assert len(ledger) == count + len(good)
    assert len(kept) >= len(good)
    tallied.count(count, failed)
    tallied.close()
