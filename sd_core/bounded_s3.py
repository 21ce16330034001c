"""S3 by s3fs, tried less often."""

from s3fs import S3FileSystem


class BoundedS3(S3FileSystem):  # type: ignore[misc]
    """s3fs tries each request so often, and a read of a file so often as a whole again."""

    retries = 3
