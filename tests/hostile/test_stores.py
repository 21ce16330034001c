"""An object store that is sick in nine ways: the code tells the truth, the same command goes on,
and the run has the bytes of one on a disk."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs

from jobs.bench.s3_emulator import S3Endpoint
from pipelines.run.store import RunStore
from tests.contracts import cases
from tests.hostile import children
from tests.hostile.protocols import check_ending
from tests.hostile.s3_proxy import S3Proxy, Sickness, always, healthy, sometimes
from tests.hostile.tally import Tally, only
from tests.hostile.world import World, faults_of

SECRET = "hostile-secret-key-0123456789"
HUNG_S = 200.0
"""By when a job has to end whose store does not answer, from the first such request on."""

MODES: dict[str, tuple[Callable[[Tally], Sickness], tuple[int, ...]]] = {
    "503 to a tenth": (lambda tally: sometimes("503", share=0.1, seed=tally.random), (0,)),
    "503 to all": (lambda tally: always("503"), (75,)),
    "503 from the middle on": (lambda tally: always("503", after=_middle(tally)), (75,)),
    "403 from the middle on": (lambda tally: always("403", after=_middle(tally)), (75,)),
    "an expired token": (lambda tally: always("expired", after=_middle(tally)), (75,)),
    "no answer": (lambda tally: always("hang", after=_middle(tally)), (75,)),
    "an answer cut off": (
        lambda tally: sometimes("cut", share=0.1, seed=tally.random, methods="GET"),
        (0, 75),
    ),
    "a write's answer lost": (
        lambda tally: sometimes("lost", share=0.1, seed=tally.random, methods="PUT"),
        (0, 75),
    ),
    "answers in drips": (lambda tally: always("slow"), (0,)),
    "no such bucket": (lambda tally: always("no_bucket"), (2, 75)),
}


_QUICK = ("503 to a tenth", "403 from the middle on")
"""In every run of the tests."""


def _middle(tally: Tally) -> int:
    return tally.random.randrange(5, 60)


@pytest.fixture(scope="module")
def proxy(s3_endpoint: S3Endpoint) -> Iterator[S3Proxy]:
    with S3Proxy(s3_endpoint.url) as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("mode", [*_QUICK, *only(*(mode for mode in MODES if mode not in _QUICK))])
@pytest.mark.parametrize("job", ["curate", *only("generate")])
def test_a_sick_store_is_told_and_survived(
    world: World,
    proxy: S3Proxy,
    s3_endpoint: S3Endpoint,
    tally: Callable[[str], Tally],
    job: str,
    mode: str,
) -> None:
    tallied = tally(f"S3: {mode}")
    make, codes = MODES[mode]
    name = f"{job}-{mode.replace(' ', '-')}-{time.monotonic_ns()}"
    root = f"s3://{s3_endpoint.bucket}/{name}"
    arguments = getattr(world, job)(root)
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": proxy.url,
    }
    with tallied.case(job):
        proxy.begin(make(tallied))
        deadline_s = children.DEADLINE_S + HUNG_S
        ended = world.command(job, *arguments, environment=environment, deadline_s=deadline_s)
        hung_s = time.monotonic() - proxy.hung_at if proxy.hung_at else 0.0
        proxy.begin(healthy)
        check_ending(ended, *codes)
        assert hung_s < HUNG_S, f"{hung_s:.0f} s without an answer"
        assert SECRET not in ended.out + ended.err
        if ended.code != 0:
            assert s3_endpoint.bucket in ended.err.splitlines()[-1], ended.err
            _check_readable(root, s3_endpoint)
            again = world.command(job, *arguments, environment=environment)
            check_ending(again, 0)
        _check_content(world, root, s3_endpoint, job)
    tallied.close()


def _check_readable(root: str, endpoint: S3Endpoint) -> None:
    store = RunStore(root, endpoint.storage_options)
    if store.exists("revision.json"):
        assert faults_of(store, deep=False) == []


def _check_content(world: World, root: str, endpoint: S3Endpoint, job: str) -> None:
    store = RunStore(root, endpoint.storage_options)
    assert faults_of(store) == []
    copy = world.new("copy") / "run"
    s3fs.S3FileSystem(**endpoint.storage_options).get(store.absolute(""), str(copy), recursive=True)
    unharmed: Path = world.curated if job == "curate" else world.generated
    is_linked = ("images/", "latents/", "lists/")  # a store has no links
    found, expected = (
        {path: digest for path, digest in files.items() if not path.startswith(is_linked)}
        for files in map(cases.data_files, (copy, unharmed))
    )
    assert found == expected
    for path in copy.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
