"""How long a client of an object store waits for one that does not answer."""

import fsspec.config

_CONNECT_S = 10
_ANSWER_S = 15
_ATTEMPTS = 2
"""Of botocore; s3fs makes five of each. By default they come to 25 minutes for each request."""


def bound_store_waits() -> None:
    """Have every S3 client that this process makes give a silent store up within three minutes.

    What the user sets (`config_kwargs` of storage options, or fsspec's own configuration) stays.
    """
    bounds = {
        "connect_timeout": _CONNECT_S,
        "read_timeout": _ANSWER_S,
        "retries": {"total_max_attempts": _ATTEMPTS},
    }
    fsspec.config.conf.setdefault("s3", {}).setdefault("config_kwargs", bounds)
