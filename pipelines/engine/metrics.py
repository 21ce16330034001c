"""What a job on Ray counts for Prometheus, by `ray.util.metrics`: each name begins with
`ray_latent_foundry_` there."""

from ray.util.metrics import Counter, Gauge, Histogram

from pipelines.run.manifest import Manifest

_SHARD_SECONDS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0]


class RayMetrics:
    """The counters, gauges and histograms of one job; made once Ray is connected.

    Args:
        job: Its name, a tag of every figure.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._rows = _counter("rows", "Rows of committed shards", "step")
        self._kept = _counter("kept_rows", "Of these, rows that the step kept", "step")
        self._dropped = _counter("dropped_rows", "Of these, rows dropped by reason", "step reason")
        self._bytes = _counter("bytes", "Bytes of committed files", "step")
        self._shards = _counter("shards", "Committed shards", "step")
        self._seconds = Histogram(
            _name("shard_seconds"),
            description="How long a worker took for a shard",
            boundaries=_SHARD_SECONDS,
            tag_keys=("job", "step"),
        )
        self._queue = Gauge(
            _name("queued_shards"),
            description="Shards that could be begun (ready) and that workers have (running)",
            tag_keys=("job", "step", "state"),
        )
        self._busy = _counter("busy_seconds", "Seconds that workers worked", "step node gpu")
        self._wait = _counter("wait_seconds", "Seconds that ready workers waited", "step node gpu")

    def commit(self, manifest: Manifest) -> None:
        """A shard is committed."""
        tags = {"job": self._job, "step": manifest.step}
        self._shards.inc(1, tags)
        num_bytes = sum(file.num_bytes for file in manifest.files)
        for counter, count in (
            (self._rows, manifest.rows_in),
            (self._kept, manifest.kept),
            (self._bytes, num_bytes),
        ):
            if count:
                counter.inc(count, tags)
        for reason, count in manifest.dropped.items():
            if count:
                self._dropped.inc(count, {**tags, "reason": reason})

    def shard_took(self, step: str, seconds: float) -> None:
        """A worker has done a shard."""
        self._seconds.observe(max(seconds, 1e-3), {"job": self._job, "step": step})

    def queue(self, step: str, *, ready: int, running: int) -> None:
        """How many shards of a step wait and are under way now."""
        for state, count in (("ready", ready), ("running", running)):
            self._queue.set(count, {"job": self._job, "step": step, "state": state})

    def worked(self, step: str, node: str, gpu: str, *, busy_s: float, wait_s: float) -> None:
        """What ready workers of a step did since the last call, on one GPU (or none, "")."""
        tags = {"job": self._job, "step": step, "node": node, "gpu": gpu}
        for counter, seconds in ((self._busy, busy_s), (self._wait, wait_s)):
            if seconds > 0:
                counter.inc(seconds, tags)


def _name(what: str) -> str:
    return f"latent_foundry_{what}"


def _counter(what: str, description: str, tags: str) -> Counter:
    return Counter(_name(what), description=description, tag_keys=("job", *tags.split()))
