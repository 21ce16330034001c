"""S3 by s3fs, tried less often, and where the answer says that it is busy."""

from s3fs import S3FileSystem
from s3fs.core import set_custom_error_handler


class BoundedS3(S3FileSystem):  # type: ignore[misc]
    """s3fs tries each request so often, and a read of a file so often as a whole again."""

    retries = 3


def _is_busy(error: Exception) -> bool:
    """A 503 without a body, as a HEAD has it: s3fs knows one by its body alone."""
    answer = getattr(error, "response", None)  # of botocore's ClientError
    told = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    return bool(told.get("HTTPStatusCode") == 503)


set_custom_error_handler(_is_busy)
