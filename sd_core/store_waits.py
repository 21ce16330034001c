"""How long a client of an object store waits for one that does not answer."""

import fsspec
import fsspec.config

_CONNECT_S = 8
_ANSWER_S = 8
_ATTEMPTS = 2
"""Of botocore; `BoundedS3` makes three of each, and nine where a file is read. By default they come
to 25 minutes for each request, and two hours for a read."""

_CONNECTIONS = 64
"""As many as a driver's threads ask at once; botocore has ten."""


def bound_store_waits() -> None:
    """Have every S3 client that this process makes give a silent store up within three minutes.

    What the user sets (`config_kwargs` of storage options, or fsspec's own configuration) stays.
    """
    bounds = {
        "connect_timeout": _CONNECT_S,
        "read_timeout": _ANSWER_S,
        "retries": {"total_max_attempts": _ATTEMPTS},
        "max_pool_connections": _CONNECTIONS,
    }
    fsspec.config.conf.setdefault("s3", {}).setdefault("config_kwargs", bounds)
    for protocol in ("s3", "s3a"):
        fsspec.register_implementation(
            protocol,
            "sd_core.bounded_s3.BoundedS3",
            clobber=True,
            errtxt="Install s3fs to access S3",
        )
