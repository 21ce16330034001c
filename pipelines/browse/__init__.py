"""A page of this machine that browses a run: a small server over its ledger; writes nothing."""
