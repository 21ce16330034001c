"""What a failed environment needs is told on one line, with the place where it failed."""

import errno

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from sd_core.errors import FoundryError, is_no_shards_fault
from sd_core.faults import describe_fault, resource_named

FULL = OSError(errno.ENOSPC, "No space left on device")


def answered(status: int, code: str) -> ClientError:
    tree = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(tree, "PutObject")


@pytest.mark.parametrize(
    ("error", "need"),
    [
        (FULL, "make room in s3://b/run"),
        (OSError(errno.EDQUOT, "Quota"), "make room in s3://b/run, or raise its quota"),
        (OSError(errno.EROFS, "Read-only"), "mount s3://b/run for writing"),
        (OSError(errno.EIO, "I/O error"), "see to s3://b/run"),
        (OSError(errno.ENOTCONN, "Transport endpoint"), "see to s3://b/run"),
        (OSError(errno.EFBIG, "Too large"), "raise the limit on the size of files (ulimit -f)"),
        (OSError(errno.EMFILE, "Too many"), "raise the limit on open files (ulimit -n)"),
        (PermissionError(errno.EACCES, "Denied"), "let this user read and write s3://b/run"),
        (PermissionError("Access Denied"), "give s3://b/run credentials that are valid"),
        (MemoryError(), "free memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "free memory"),
        (RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), "free memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "free memory"),
        (RuntimeError("can't start new thread"), "raise the limit on processes and threads"),
        (answered(403, "AccessDenied"), "give s3://b/run credentials"),
        (answered(400, "ExpiredToken"), "give s3://b/run credentials"),
        (answered(503, "SlowDown"), "wait until s3://b/run has recovered"),
        (answered(404, "NoSuchBucket"), "make the bucket of s3://b/run"),
        (NoCredentialsError(), "give s3://b/run credentials"),
        (EndpointConnectionError(endpoint_url="http://h"), "see that s3://b/run runs"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_each_fault_says_what_it_needs_and_where(error: Exception, need: str) -> None:
    with (
        pytest.raises(FoundryError) as caught,
        resource_named("the temporary folder"),
        resource_named("s3://b/run"),
    ):
        raise FoundryError("shard 3\n is cut off") from error
    assert is_no_shards_fault(caught.value)
    assert describe_fault(caught.value).startswith(f"shard 3 is cut off; {need}")


def test_who_only_reads_is_not_charged_with_a_full_disk() -> None:
    with (
        pytest.raises(OSError, match="No space") as caught,
        resource_named("the temporary folder", writes=True),
        resource_named("s3://b/run", writes=False),
    ):
        raise OSError(*FULL.args)
    assert describe_fault(caught.value).endswith("; make room in the temporary folder")


def test_what_is_nobodys_environment_is_told_as_it_is() -> None:
    with pytest.raises(ValueError, match="x") as caught, resource_named("/run"):
        raise ValueError("x")
    assert describe_fault(caught.value) == "ValueError: x"
