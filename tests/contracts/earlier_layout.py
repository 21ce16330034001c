"""A run as versions before `_work/` left it: everything at its top, and no step `publish`."""

import json
import shutil
from pathlib import Path

from sd_core.sealed import seal_tree


def as_of_before_work(run: Path) -> Path:
    """Make it one."""
    for name in ("images", "ledger", "latents", "metadata", "lists"):
        shutil.rmtree(run / name, ignore_errors=True)
    work = run / "_work"
    for name in ("kept", "manifests/publish"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "readers.json").unlink()
    for path in work.iterdir():
        shutil.move(path, run / path.name)
    work.rmdir()
    (run / "README.md").unlink(missing_ok=True)
    for name in ("run.json", "revision.json"):
        tree = json.loads((run / name).read_text())
        del tree["own_digest"]
        del tree["steps"]["publish"]
        tree.get("config", {}).pop("steps", None)
        (run / name).write_bytes(seal_tree(tree))
    return run
