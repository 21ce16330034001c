"""`~` in a path that somebody wrote."""

import os


def expand_home(path: str) -> str:
    """The path with the user's own folder in place of a leading `~`; any other text as it is."""
    return os.path.expanduser(path) if path.startswith("~") else path
