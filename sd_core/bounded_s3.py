"""S3 by s3fs, tried less often, and where the answer says that it is busy."""

from typing import Any

from s3fs import S3FileSystem
from s3fs.core import set_custom_error_handler


class BoundedS3(S3FileSystem):  # type: ignore[misc]
    """s3fs tries each request so often, and a read of a file so often as a whole again."""

    retries = 3

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """As s3fs, which asks for the size first: what is copied here is no 5 GB."""
        await self._copy_basic(path1, path2, **kwargs)

    async def _bulk_delete(self, pathlist: list[str], **kwargs: Any) -> list[str]:
        """As s3fs, which says nothing of a file that the store would not remove."""
        if not pathlist:
            return []
        bucket, _, _ = self.split_path(pathlist[0])
        keys = [{"Key": self.split_path(path)[1]} for path in pathlist]
        told = {"Objects": keys, "Quiet": True}
        answer = await self._call_s3("delete_objects", kwargs, Bucket=bucket, Delete=told)
        for path in pathlist:
            self.invalidate_cache(self._parent(path))
        for error in answer.get("Errors", ()):
            text = f"{error.get('Key')}: {error.get('Code')}: {error.get('Message')}"
            raise PermissionError(f"not removed: {text}")
        return pathlist


def _is_busy(error: Exception) -> bool:
    """A 503 without a body, as a HEAD has it: s3fs knows one by its body alone."""
    answer = getattr(error, "response", None)  # of botocore's ClientError
    told = answer.get("ResponseMetadata", {}) if isinstance(answer, dict) else {}
    return bool(told.get("HTTPStatusCode") == 503)


set_custom_error_handler(_is_busy)
