"""A job of one toy step, as a process of its own: `python -m ... ROOT '{"config": ..., ...}'`."""

import json
import sys
from typing import Any

from jobs.exit_codes import exit_code_of
from pipelines.engine.config import EngineConfig
from pipelines.engine.session import open_session
from pipelines.engine.stopping import Stopped
from pipelines.run.store import RunStore
from tests.pipelines.engine.toy_step import ToyStep


def main(root: str, settings: dict[str, Any]) -> int:
    """Run it; says what a job says."""

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    store = RunStore(root)
    config = EngineConfig.model_validate({"gpus": 0, "patience_s": 0, **settings["config"]})
    try:
        with open_session(store, config, say=say, downloads=False) as session:
            resources = session.model_resources
            steps = [ToyStep(store, resources=resources, **step) for step in settings["steps"]]
            for chain in [[step] for step in steps]:
                session.run(chain, num_shards=settings["num_shards"])
    except Stopped as stopped:
        return 128 + stopped.signal
    except Exception as error:
        say(f"failed: {error}")
        return int(exit_code_of(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
