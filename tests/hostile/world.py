"""A small world: twelve rows in three shards, six images in three, a training of four steps."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.demo.bad_answers import answer
from jobs.demo.exchange import Reply, Request
from jobs.demo.server import LoopbackServer
from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, draw
from pipelines.revisions.readers import FILES_LIST, LISTS_FOLDER, SHOWN
from pipelines.run.layout import WORK_FOLDER
from pipelines.run.store import RunStore
from pipelines.verify import Fault, verify_run
from tests.contracts import generation_cases, job_cases, training_cases
from tests.hostile import children

NUM_PICTURES = 10
ENCODE = (
    "{autoencoder: {model: 'preset:tiny/autoencoder'}, "
    "text_encoder: {clip: {name: 'preset:tiny/clip'}}, download_shards_per_file: 2}"
)
RECUT = "[{column: aesthetic_v1, min: 6.5}]"


class World:
    """Where everything is; each unharmed run is made once, by the command that is then faulted."""

    def __init__(self, folder: Path, server: LoopbackServer) -> None:
        self.folder = folder
        self.server = server
        self.flaky_up = False
        self._count = 0

    def new(self, name: str) -> Path:
        """A new folder for a case."""
        self._count += 1
        made = self.folder / f"{name}-{self._count}"
        made.mkdir()
        return made

    def command(self, job: str, *arguments: str, **options: Any) -> children.Ended:
        """Run a job in a folder of its own; the folder of a job that ended well is removed."""
        folder = options.pop("folder", None) or self.new(job)
        return children.run(job, arguments, folder=folder, **options)

    def must(self, job: str, *arguments: str, **options: Any) -> children.Ended:
        """Run a job that has to end with 0."""
        ended = self.command(job, *arguments, **options)
        assert ended.code == 0, ended
        return ended

    @cached_property
    def list_path(self) -> Path:
        """Ten pictures, one of them a copy, and two URLs that answer badly."""
        return self._write_list("list.parquet", slice(0, NUM_PICTURES + 2))

    @cached_property
    def flaky_list(self) -> Path:
        """A picture that answers 503 until `flaky_up`, beside five that are there."""
        return self._write_list("flaky.parquet", slice(NUM_PICTURES - 5, NUM_PICTURES + 3))

    @cached_property
    def prompts(self) -> Path:
        """Six prompts."""
        return generation_cases.write_prompts(
            self.folder / "prompts.parquet", generation_cases.prompts(6)
        )

    def curate(self, output: Path | str, *more: str, **options: Any) -> list[str]:
        """The arguments of a curation into `output`."""
        settings = {"plan__rows_per_shard": 4, "download__timeout_s": 3.0, "encode": ENCODE}
        path = options.pop("path", None) or self.list_path
        return job_cases.curate(path, output, *more, **(settings | options))

    def generate(self, output: Path | str, *more: str, **options: Any) -> list[str]:
        """The arguments of a generation into `output`."""
        settings = {"plan__images_per_shard": 2, "generate__batch_size": 2}
        return job_cases.generate(self.prompts, output, *more, **(settings | options))

    def train(self, output: Path | str, *more: str, **options: Any) -> list[str]:
        """The arguments of a training of four steps on the unharmed curation's latents."""
        settings = {
            "output": output,
            "loop__steps": 4,
            "loop__batch_size": 2,
            "loop__checkpoint_every": 2,
        }
        path = self.folder / "train.yaml"
        if not path.exists():
            latents = self.curated / "latents"
            training_cases.write_config(path, latents, self.folder / "none", order__num_streams=1)
        return ["--config", str(path), *more, *job_cases.sets(**(settings | options))]

    @cached_property
    def curated(self) -> Path:
        """The unharmed curation."""
        return self._unharmed("curate", self.curate)

    @cached_property
    def generated(self) -> Path:
        """The unharmed generation."""
        return self._unharmed("generate", self.generate)

    @cached_property
    def trained(self) -> Path:
        """The unharmed training."""
        return self._unharmed("train", self.train)

    def _unharmed(self, job: str, arguments: Callable[..., list[str]]) -> Path:
        output = self.folder / f"unharmed-{job}"
        self.must(job, *arguments(output))
        return output

    def _write_list(self, name: str, rows: slice) -> Path:
        urls = [f"{self.server.url}/{number:03d}.png" for number in range(NUM_PICTURES)]
        urls += [f"{self.server.url}/{name}" for name in ("bad/not_found", "bad/gone", "flaky.png")]
        texts = [caption(number) for number in range(len(urls))]
        path = self.folder / name
        pq.write_table(pa.table({"URL": urls[rows], "TEXT": texts[rows]}), path)
        return path


def caption(number: int) -> str:
    """What a picture shows."""
    return draw(_seed(number), width=96, height=80).caption


def _seed(number: int) -> int:
    return FIRST_HELD_OUT_SEED + 500_000 + number - (number == 7)


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    """The world, its server running."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(NUM_PICTURES + 1):
        picture = draw(_seed(number), width=96, height=80)
        Image.fromarray(np.asarray(picture.image)).save(pictures / f"{number:03d}.png")

    async def flaky(request: Request, reply: Reply) -> None:
        body = (pictures / f"{NUM_PICTURES:03d}.png").read_bytes()
        await (answer(200, body) if world.flaky_up else answer(503))(request, reply)

    with LoopbackServer(pictures, handlers={"/flaky.png": flaky}) as server:
        world = World(folder, server)
        yield world


def faults_of(run: Path | RunStore, *, deep: bool = True) -> list[str]:
    """What `verify` finds wrong with a run."""
    found = verify_run(run if isinstance(run, RunStore) else RunStore(str(run)), deep=deep)
    return [str(finding) for finding in found if isinstance(finding, Fault)]


def shown(run: Path) -> dict[str, str]:
    """What lists name, and what lies in the folders: digests, `""` of what is not there."""
    lists = [*run.rglob("shards.txt"), *(run / LISTS_FOLDER).glob("*.txt")]
    found = {run / FILES_LIST, *lists}
    for path in lists:
        root = run if path.parent.name == LISTS_FOLDER else run / WORK_FOLDER
        found.update(root / name for name in path.read_text().split())
    for folder in SHOWN:
        found.update(path for path in (run / folder).glob("*") if path.name[0] != ".")
    return {path.relative_to(run).as_posix(): _digest(path) for path in sorted(found)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def summary(run: Path) -> Mapping[str, Any]:
    """Each complete step's counts, by step; empty where none is complete."""
    path = run / "revision.json"
    if not path.exists():
        return {}
    tree: dict[str, Any] = json.loads(path.read_text())["steps"]
    return tree
