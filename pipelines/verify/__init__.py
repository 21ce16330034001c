"""Verify: every promise of a run that can be read off its files."""

from pipelines.run.record import NotARunError
from pipelines.verify.fault import Fault, Note
from pipelines.verify.verify import verify_run

__all__ = ["Fault", "NotARunError", "Note", "verify_run"]
