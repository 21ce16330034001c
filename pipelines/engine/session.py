"""One job's hold on its run and its workers: lease, cluster, preflight, chains."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from pipelines.engine import cluster
from pipelines.engine.chain import Chain
from pipelines.engine.config import EngineConfig
from pipelines.engine.early_warning import EarlyWarning
from pipelines.engine.local import run_local
from pipelines.engine.metrics import RayMetrics
from pipelines.engine.patience import Patience, ResultT
from pipelines.engine.progress import Progress
from pipelines.engine.ray_runner import RayRunner
from pipelines.engine.sight import RunnerSight, Sight, SightWriter
from pipelines.engine.stopping import check_stopped, stoppable
from pipelines.run.lease import Lease
from pipelines.run.manifest import Manifest
from pipelines.run.rates import RateLog
from pipelines.run.store import RunStore
from pipelines.steps.step import Resources, ShardStep
from sd_core.errors import is_environment
from sd_core.say import Say


class Session:
    """Workers for a job, made by `open_session`.

    Attributes:
        model_resources: What a step with models may take: a GPU each where there are any.
        download_resources: What the download step takes.
        keep: Told of every commit, beside what counts them.
        runner: Of a job on Ray, after `preflight`.
    """

    def __init__(self, store: RunStore, config: EngineConfig, lease: Lease, say: Say) -> None:
        self._store = store
        self._config = config
        self._lease = lease
        self._say = say
        self.progress = Progress(say=say)
        self.sight = Sight(self.progress)
        self.rates = RateLog()
        self.keep: Callable[[Manifest], None] = lambda manifest: None
        self._warning = EarlyWarning(store, say=say)
        self._metrics: RayMetrics | None = None
        workers = config.download_workers
        self.download_resources = Resources(num_workers=None if workers == "auto" else workers)
        self.model_resources = (
            Resources(
                num_gpus=float(config.gpus != 0), may_use_cpu=config.cpu_fallback is not False
            )
            if config.runner == "local"
            else cluster.model_resources(config, check=self._check, say=say)
        )
        self.runner: RayRunner | None = None

    def preflight(self, *, downloads: bool) -> None:
        """Raise `EngineError`, within seconds, unless every worker of the job fits at once, or
        may come later."""
        if self._config.runner == "local":
            if cluster.gpu_range(self._config)[0] > 1:
                self._say("engine.gpus: without Ray one GPU is used; set engine.runner to ray")
            return
        pools = [("models", self.model_resources)]
        if downloads:
            pools.insert(0, ("download", self.download_resources))
        wait_s = cluster.waits_for_resources_s(self._config)
        if not wait_s:
            cluster.check_resources(pools)
        cluster.probe_storage(self._store, say=self._say)
        name = self._store.root.rstrip("/").rpartition("/")[2] or self._store.root
        self._metrics = RayMetrics(name)
        self.runner = RayRunner(
            name=name,
            wait_s=wait_s,
            heartbeat_s=self._config.heartbeat_timeout_s,
            sight=RunnerSight(self.sight, self._metrics),
            say=self._say,
        )

    def run(
        self,
        steps: Sequence[ShardStep],
        *,
        num_shards: int,
        done: Sequence[Collection[int]] | None = None,
    ) -> None:
        """Run a chain of steps to its end; every shard is then committed or quarantined.

        Args:
            done: Each step's committed shards, where they were listed already.
        """
        chain = Chain(
            self._store,
            steps,
            num_shards,
            config=self._config,
            on_commit=self._count,
            on_trouble=self.sight.on_trouble(self._say),
            done=done,
        )
        for step, num_done in zip(steps, chain.num_done, strict=True):
            self.start(step.name, shards_total=num_shards, shards_done=num_done)
            if (watched := getattr(step, "watched", None)) is not None:
                self._warning.watched[step.name] = watched
        if self.runner is None:
            run_local(chain, check=self._check, say=self._say)
        else:
            self.runner.run(chain, shards_ahead=self._config.shards_ahead, check=self._check)

    def persist(self, name: str, work: Callable[[], ResultT]) -> ResultT:
        """Do, in the driver, what may be repeated, for `engine.patience_s` while storage fails."""
        self._lease.check()
        say = self.sight.on_trouble(self._say)
        return Patience(self._config.patience_s).persist(name, work, say=say)

    def start(self, step: str, *, shards_total: int, shards_done: int = 0) -> None:
        """A step begins, whoever runs it."""
        self.progress.start(step, shards_total=shards_total, shards_done=shards_done)
        self.rates.start(step)

    def on_commit(self, manifest: Manifest) -> None:
        """Count a commit that the driver made itself."""
        self._check()
        self._count(manifest)

    def _check(self) -> None:
        check_stopped()
        self._lease.check()

    def _count(self, manifest: Manifest) -> None:
        self.keep(manifest)
        self.progress.add(manifest)
        self.rates.add(manifest)
        self._warning.add(manifest)
        if self._metrics is not None:
            self._metrics.commit(manifest)


@contextmanager
def open_session(
    store: RunStore, config: EngineConfig, *, say: Say, downloads: bool = True
) -> Iterator[Session]:
    """Take the run's lease, connect to the workers and check that they can hold the job.

    Args:
        downloads: Whether the job has download workers beside those with models.

    Raises:
        EngineError: the output cannot be written, or the cluster cannot hold the job.
        LeaseHeldError: another job is writing this run.
    """
    with ExitStack() as stack:
        stack.enter_context(stoppable())
        stack.enter_context(cluster.writable(store))
        lease = stack.enter_context(Lease(store, say=say))
        if config.runner == "ray":
            stack.enter_context(cluster.connected(num_cpus=cluster.count_cpus(config, downloads)))
        session = Session(store, config, lease, say)
        stack.enter_context(SightWriter(store, lease, session.sight.look))
        session.preflight(downloads=downloads)
        if session.runner is not None:
            stack.callback(session.runner.close)
        is_reached = True
        try:
            yield session
        except Exception as error:
            is_reached = not is_environment(error)
            raise
        finally:
            with suppress(Exception):  # how fast it was must not hide how it ended
                if is_reached:
                    session.rates.write(store)
