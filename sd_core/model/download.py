"""Fetch weights from the network into a local cache: short time-outs, few retries, atomic."""

import hashlib
import os
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sd_core.errors import FoundryError
from sd_core.made_folders import made_folder

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 30
_HUB_TIMEOUT_S = 10
# A diffusers repository holds each model several times; only the full safetensors are wanted.
_HUB_IGNORED = ["*.bin", "*.ckpt", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.onnx*", "*.fp16.*"]


class DownloadError(FoundryError):
    """Something could not be fetched."""


class NotFetchedError(DownloadError):
    """It is not here, and within `nothing_fetched` nothing is."""


_kept_from_network: list[str] = []


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Within it, in every thread, only what was fetched before is found; nothing is written."""
    _kept_from_network.append("")
    try:
        yield
    finally:
        _kept_from_network.pop()


def cache_folder() -> Path:
    """Where fetched weights are kept: LATENT_FOUNDRY_CACHE or ~/.cache/latent-foundry."""
    configured = os.environ.get("LATENT_FOUNDRY_CACHE")
    return (
        Path(configured).expanduser() if configured else Path.home() / ".cache" / "latent-foundry"
    )


def download_url(url: str) -> Path:
    """Fetch one file from any fsspec URL; a file once fetched is not asked for again."""
    name = Path(urllib.parse.urlsplit(url).path).name or "weights"
    target = cache_folder() / "urls" / hashlib.sha256(url.encode()).hexdigest()[:24] / name
    if target.exists():
        return target
    if _kept_from_network:
        raise NotFetchedError("was not fetched before")
    with made_folder(target.parent):
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".tmp-")
        os.close(handle)
        try:
            _fetch(url, temporary)
            os.replace(temporary, target)
        except Exception as error:  # every file system raises its own
            raise DownloadError(f"cannot be fetched ({type(error).__name__})") from error
        finally:
            Path(temporary).unlink(missing_ok=True)
    return target


def snapshot_hub(repo: str, *, revision: str, inside: str | None = None) -> Path:
    """Fetch a model repository of the hub, or one file or folder of it, at one revision.

    The name after the repository is a file where its last part has a dot, else a folder.
    """
    from huggingface_hub import snapshot_download

    is_file = inside is not None and "." in inside.rsplit("/", 1)[-1]
    options: dict[str, Any] = {"revision": revision, "etag_timeout": _HUB_TIMEOUT_S}
    if inside is not None:
        options["allow_patterns"] = [inside if is_file else f"{inside}/*"]
    if not is_file:
        options["ignore_patterns"] = _HUB_IGNORED
    options["local_files_only"] = bool(_kept_from_network) or not hub_answers()
    try:
        folder = Path(snapshot_download(repo, **options))
    except Exception as error:  # the hub's client raises its own, httpx's and OSError
        if _kept_from_network:
            raise NotFetchedError(f"revision {revision} was not fetched before") from error
        if not hub_answers():
            raise DownloadError(
                f"revision {revision} was not fetched before, and the model hub does not answer"
            ) from (error if is_offline() else ConnectionError("the model hub does not answer"))
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise DownloadError(
            f"cannot be fetched from the model hub at revision {revision} "
            f"({type(error).__name__}: {reason[:200]})"
        ) from error
    path = folder / inside if inside else folder
    if _kept_from_network and not path.exists():  # another part of it was
        raise NotFetchedError(f"revision {revision} was not fetched before")
    return path


def is_offline() -> bool:
    """Whether the user keeps the hub's client from the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@cache
def hub_answers() -> bool:
    """Whether the hub's host can be connected to; its client would retry for half a minute and
    say so. Where it cannot, what was fetched before is still found."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or urllib.request.getproxies():
        return not constants.HF_HUB_OFFLINE
    endpoint = urllib.parse.urlsplit(constants.ENDPOINT)
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def download_open_clip(name: str, tag: str) -> Path:
    """Fetch the checkpoint that open_clip's table lists for a model name and tag."""
    from open_clip import pretrained

    entry = pretrained.get_pretrained_cfg(name, tag)
    if not entry:
        tags = pretrained.list_pretrained_tags_by_model(name)
        raise DownloadError(f"open_clip has no tag {tag!r} for {name}; it has {', '.join(tags)}")
    repo, _, file = str(entry.get("hf_hub", "")).rpartition("/")
    if not repo:
        return download_url(str(entry["url"]))
    # open_clip's table names a repository and no revision: pin the bytes by sha256.
    file = file or "open_clip_pytorch_model.bin"
    safe = "open_clip_model.safetensors" if "pytorch_model" in file else f"{file[:-4]}.safetensors"
    for candidate in (safe, file):
        path = snapshot_hub(repo, revision="main", inside=candidate)
        if path.exists():
            return path
    raise DownloadError(f"the model hub's {repo} holds no checkpoint for {name}/{tag}")


def _fetch(url: str, local: str) -> None:
    import fsspec

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=None, connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S
        )
        options["client_kwargs"] = {"timeout": timeout}
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    filesystem.get_file(path, local)
