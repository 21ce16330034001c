"""Verify: every promise of a run that can be read off its files."""

from pipelines.verify.fault import Fault, Note
from pipelines.verify.verify import NotARunError, verify_run

__all__ = ["Fault", "NotARunError", "Note", "verify_run"]
