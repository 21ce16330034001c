"""What the demo and the photographs run share: a folder, a submitted job, its check."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobs import verify
from jobs.demo.local_cluster import LocalCluster, local_cluster
from sd_core.errors import EnvironmentFault, FoundryError, InputError
from sd_core.say import Say

PROJECT = Path(__file__).resolve().parents[2]
_NUM_CPUS = 4  # logical: two fetchers, a model worker, and one to spare on any machine
_MARK = ".latent-foundry-demo"


class LocalRunError(FoundryError):
    """The run failed, or is not what it should be; the message says why."""


_OF_CODE: Final[Mapping[int, type[FoundryError]]] = {
    kind.exit_code: kind for kind in (InputError, EnvironmentFault)
}


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
        InputError: it is a file, or the folder holds something that no such command wrote.
    """
    root = root.resolve()
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; give another --output")
    if root.exists():
        if not (root / _MARK).exists() and any(root.iterdir()):
            raise InputError(
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
        InputError, EnvironmentFault: the job says that what it was given, or the environment, is
            at fault.
        LocalRunError: it exited with anything else but 0.
    """
    command = [script, "--config", str(config.relative_to(PROJECT))]
    for setting in settings:
        command += ["--set", setting]
    say("ray job submit --working-dir . -- python " + " ".join(command))
    code = cluster.submit(command, working_dir=PROJECT, say=say)
    if code:
        raise _OF_CODE.get(code, LocalRunError)(f"{script} exited with {code}; its log is above")


def verify_deeply(run: Path, *, say: Say) -> None:
    """Run jobs/verify.py --deep; raises `LocalRunError` where it finds faults."""
    say(f"verifying: jobs/verify.py {run} --deep")
    if verify.main([str(run), "--deep"]):
        raise LocalRunError(f"{run} does not verify; the faults are above")
