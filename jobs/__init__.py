"""Commands: parse, build, run, say what happened."""

import signal
import sys
from pathlib import Path

_started = Path(sys.argv[0]).absolute()
if sys.argv[0] == "-m" or _started.name == "latent-foundry" or _started.parent.name == __name__:
    # The first line of a command: from here on no signal ends it with a trace.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pipelines.engine.stopping import end_in_time

    end_in_time()
