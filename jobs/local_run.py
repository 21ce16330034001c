"""What the demo and the photographs run share: a folder, a submitted job, its check."""

import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jobs import verify
from pipelines.engine.local_cluster import LocalCluster, local_cluster

PROJECT = Path(__file__).resolve().parents[1]
_NUM_CPUS = 4  # logical: two fetchers, a model worker, and one to spare on any machine
_MARK = ".latent-foundry-demo"

Say = Callable[[str], None]


class LocalRunError(Exception):
    """The run cannot be set up, or failed; the message says why."""


@dataclass(frozen=True, kw_only=True)
class LocalFolder:
    """Where one of these runs keeps its things."""

    root: Path

    @property
    def served(self) -> Path:
        """Files that the loopback server serves."""
        return self.root / "served"

    @property
    def url_list(self) -> Path:
        """The list of URLs."""
        return self.root / "urls.parquet"

    @property
    def run(self) -> Path:
        """The run itself."""
        return self.root / "run"

    @property
    def training(self) -> Path:
        """What a training writes."""
        return self.root / "training"

    @property
    def prompts(self) -> Path:
        """The list of prompts."""
        return self.root / "prompts.parquet"

    @property
    def generated(self) -> Path:
        """The generation's run."""
        return self.root / "generated"

    @property
    def generated_grid(self) -> Path:
        """A labelled grid of its images."""
        return self.root / "generated.png"

    @property
    def mixed_training(self) -> Path:
        """What the training on both caches writes."""
        return self.root / "mixed-training"

    @property
    def contact_sheet(self) -> Path:
        """The contact sheet."""
        return self.root / "contact_sheet.png"


def start_afresh(root: Path, *, say: Say) -> LocalFolder:
    """Make the folder, clearing what the same command left there before.

    Raises:
        LocalRunError: the folder holds something that no such command wrote.
    """
    root = root.resolve()
    if root.exists():
        if not (root / _MARK).exists() and any(root.iterdir()):
            raise LocalRunError(
                f"{root} is not empty and was not written by this command; give another --output"
            )
        say(f"clearing {root}, which an earlier call of this command wrote")
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / _MARK).touch()
    folder = LocalFolder(root=root)
    folder.served.mkdir()
    return folder


@contextmanager
def job_cluster(*, say: Say) -> Iterator[LocalCluster]:
    """A private Ray cluster for submitted jobs; raises `EngineError` where none can be started."""
    with local_cluster(num_cpus=_NUM_CPUS, say=say) as cluster:
        yield cluster


def submit_job(
    cluster: LocalCluster, script: str, config: Path, *, settings: Sequence[str], say: Say
) -> None:
    """Submit a job of the project and wait for its end.

    Args:
        cluster: Of `job_cluster`.
        script: Such as `jobs/curate.py`.
        config: The YAML file, inside the project.
        settings: `section.field=value`, as `--set` takes them.
        say: Given each line of the job's log.

    Raises:
        LocalRunError: the job exited with anything but 0.
    """
    command = [script, "--config", str(config.relative_to(PROJECT))]
    for setting in settings:
        command += ["--set", setting]
    say("ray job submit --working-dir . -- python " + " ".join(command))
    code = cluster.submit(command, working_dir=PROJECT, say=say)
    if code:
        raise LocalRunError(f"{script} exited with {code}; its log is above")


def verify_deeply(run: Path, *, say: Say) -> None:
    """Run jobs/verify.py --deep; raises `LocalRunError` where it finds faults."""
    say(f"verifying: jobs/verify.py {run} --deep")
    if verify.main([str(run), "--deep"]):
        raise LocalRunError(f"{run} does not verify; the faults are above")


@contextmanager
def terminate_as_exit() -> Iterator[None]:
    """Make SIGTERM unwind the stack, so that the Ray head and the server are stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
