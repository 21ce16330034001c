"""An object store of our own on loopback: moto's, in a process that others reach as well."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

_MOTO: Final = """
import sys, logging
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").disabled = True
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class S3Endpoint:
    """The server's address, with one empty bucket."""

    url: str
    bucket: str = "bucket"

    @property
    def storage_options(self) -> dict[str, Any]:
        """For fsspec; the environment says the same while the server lives."""
        return {"key": "testing", "secret": "testing", "endpoint_url": self.url}


@contextmanager
def s3_emulator() -> Iterator[S3Endpoint]:
    """The server, until the block ends."""
    import s3fs

    server = subprocess.Popen(
        [sys.executable, "-c", _MOTO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdout is not None
        endpoint = S3Endpoint(f"http://127.0.0.1:{int(server.stdout.readline())}")
        environment = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint.url,
        }
        try:
            with patch.dict(os.environ, environment):
                s3fs.S3FileSystem(**endpoint.storage_options).mkdir(endpoint.bucket)
                yield endpoint
        finally:
            server.kill()
