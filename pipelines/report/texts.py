"""Texts of a run as pages show them."""

from sd_core.redact import redact_text


def shown_text(text: str | None) -> str:
    """Nothing that turns the direction of what follows or is no letter, and no secret that a
    ledger should not have."""
    return redact_text("".join(c if c.isprintable() else " " for c in text or ""))
