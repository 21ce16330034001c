"""A job of toy steps, as a process of its own: `python -m ... ROOT '{"config": ..., ...}'`."""

import json
import sys
from typing import Any

from jobs.command_line import run_job
from pipelines.engine.config import EngineConfig
from pipelines.engine.session import open_session
from pipelines.run.store import RunStore
from sd_core.say import Say
from tests.pipelines.engine.toy_step import ToyStep


def work(root: str, settings: dict[str, Any], say: Say) -> int:
    """Run each step as a chain of its own."""
    store = RunStore(root)
    config = EngineConfig.model_validate({"gpus": 0, "patience_s": 0, **settings["config"]})
    with open_session(store, config, say=say, downloads=False) as session:
        for step in settings["steps"]:
            is_download = settings["config"].get("download_workers") is not None
            places = session.download_resources if is_download else session.model_resources
            toy = ToyStep(store, resources=places, **step)
            session.run([toy], num_shards=settings["num_shards"])
    return 0


if __name__ == "__main__":
    sys.exit(run_job(lambda say: work(sys.argv[1], json.loads(sys.argv[2]), say)))
