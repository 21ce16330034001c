"""Commands: parse, build, run, say what happened."""
