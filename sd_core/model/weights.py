"""Where weights come from: one spelling of a reference, checked hashes, one clear error."""

import hashlib
import re
import urllib.parse
from collections.abc import Callable, Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sd_core.errors import FoundryError, InputError, is_environment
from sd_core.git_lfs import POINTER_TOLD, is_pointer
from sd_core.model.download import DownloadError, download_open_clip, download_url, snapshot_hub
from sd_core.redact import redact_url

Params = ParamSpec("Params")
Loaded = TypeVar("Loaded")

PRESETS = Path(__file__).resolve().parents[1] / "presets"

_HUB = re.compile(r"hub:(?P<repo>[^/@\s]+/[^/@\s]+)(@(?P<revision>[^/@\s]+))?(/(?P<path>.+))?")


_HAS_SCHEME = re.compile(r"[a-z_0-9+]{2,}:")


class WeightsError(InputError):
    """Weights cannot be had; says what is needed, from where, and where to put it instead."""


class WeightsNeed(NamedTuple):
    """One set of weights that a configuration names.

    `where` is the configuration's key (`score.clip.pretrained`), which may be set to a local path.
    """

    where: str
    ref: str
    sha256: str | None = None


def refuse_bare(model: str | None, architectures: Container[str], *, pretrained: bool) -> None:
    """Raise `ValueError` where weights are asked for of an architecture that has none."""
    if pretrained and model in architectures:
        raise ValueError(
            f"model {model!r} is an architecture without weights; name a folder, or set "
            "pretrained to false for random weights"
        )


def loads_weights(load: Callable[Params, Loaded]) -> Callable[Params, Loaded]:
    """Of a function that loads what its first argument, a configuration, names.

    At a file that is damaged, cut off or of another kind the libraries that read it raise
    everything there is (`Exception` itself, `StopIteration`): all of it becomes a `WeightsError`.
    """

    @wraps(load)
    def loading(*args: Params.args, **kwargs: Params.kwargs) -> Loaded:
        try:
            return load(*args, **kwargs)
        except (FoundryError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if is_environment(error):
                raise
            describe = getattr(args[0], "describe", None)
            named = describe() if callable(describe) else "the models"
            lines = str(error).strip().splitlines()
            raise WeightsError(
                f"{named}: cannot be loaded ({type(error).__name__}: {lines[0] if lines else ''}); "
                "files are damaged, cut off or of another kind: fetch them again, or name another "
                "model"
            ) from error

    return loading


def resolve_weights(ref: str, *, sha256: str | None = None, where: str = "") -> Path:
    """Turn a reference into a local file or folder, fetching it at most once.

    Args:
        ref: `preset:tiny/clip` (ships with the package), a local path, `https://...` or any
            other fsspec URL of one file, `hub:org/name@revision[/file or folder]`, or
            `open_clip:NAME/TAG` (open_clip's own table of checkpoints).
        sha256: Expected digest: of the file, or of the folder as `digest_folder` defines it.
        where: The configuration key that named it, for the error.

    Raises:
        WeightsError: it is not there, cannot be fetched, or has another sha256.
    """
    try:
        path = _locate(ref)
    except DownloadError as error:
        raise WeightsError(_explain(ref, str(error), where)) from error
    if not path.exists():
        raise WeightsError(_explain(ref, f"there is nothing at {path}", where))
    if sha256 is not None:
        found = digest_folder(path) if path.is_dir() else digest_file(path)
        if found != sha256.lower():
            raise WeightsError(
                _explain(ref, f"{path} has sha256 {found}, the configuration says {sha256}", where)
            )
    return path


def check_weights(needs: Iterable[WeightsNeed | tuple[str, str, str | None]]) -> None:
    """Resolve everything a configuration needs; raises one `WeightsError` naming all faults."""
    wanted = [WeightsNeed(*need) for need in needs]
    if not wanted:
        return
    with ThreadPoolExecutor(max_workers=min(8, len(wanted))) as pool:
        faults = [fault for fault in pool.map(_fault, wanted) if fault]
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        passes = all(is_environment(fault) for fault in faults)
        raise WeightsError(f"{len(faults)} set(s) of weights cannot be had:\n{lines}") from (
            faults[0] if passes else None
        )


def join_reference(ref: str, name: str) -> str:
    """The reference of a subfolder or file inside the folder that `ref` names."""
    return f"{ref.rstrip('/')}/{name}"


def public_reference(ref: str) -> str:
    """The reference without user information or query, fit for messages and stored files."""
    if "://" not in ref:
        return ref
    parts = urllib.parse.urlsplit(redact_url(ref))
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def weights_identity(ref: str, sha256: str | None) -> dict[str, str]:
    """What tells these weights from others.

    Their sha256 where it is pinned or the files are on this machine's disks; else the reference,
    with a digest of what `public_reference` leaves out.
    """
    if sha256:
        return {"sha256": sha256.lower()}
    is_local = ref.startswith(("preset:", "file://")) or not _HAS_SCHEME.match(ref)
    if is_local and (path := _locate(ref)).exists():
        return {"sha256": digest_folder(path) if path.is_dir() else digest_file(path)}
    shown = public_reference(ref)
    hidden = {} if shown == ref else {"ref_sha256": hashlib.sha256(ref.encode()).hexdigest()[:16]}
    return {"ref": shown, **hidden}


def digest_file(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_folder(folder: Path) -> str:
    """Hex sha256 over the folder's files: lines of `<sha256>  <relative path>`, sorted by path.

    Hidden files and folders are left out. The same as
    `find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum` where nothing is hidden.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )
    lines = "".join(f"{digest_file(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def weights_sha256(module: nn.Module) -> str:
    """Hex sha256 of a module's state: each tensor's name, dtype, shape and bytes, by name.

    Cost: one pass over the weights (about 1 GB/s); each tensor is brought to the CPU.
    """
    return tensors_sha256(sorted(module.state_dict().items()))


def tensors_sha256(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The same of tensors that come in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name}\0{dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _locate(ref: str) -> Path:
    scheme, _, rest = ref.partition(":")
    if scheme == "preset":
        return PRESETS / rest
    if scheme == "hub":
        return _locate_in_hub(ref)
    if scheme == "open_clip":
        return download_open_clip(*rest.rsplit("/", 1)) if "/" in rest else Path(ref)
    if ref.startswith("file://"):
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(ref).path))
    if "://" in ref:
        return download_url(ref)
    return Path(ref).expanduser()


def _locate_in_hub(ref: str) -> Path:
    match = _HUB.fullmatch(ref)
    if match is None:
        raise DownloadError("not of the form hub:org/name@revision[/file or folder]")
    if match["revision"] is None:
        raise DownloadError(
            "no revision is pinned; write hub:org/name@<commit>[/file or folder], so that the "
            "same configuration always means the same weights"
        )
    return snapshot_hub(match["repo"], revision=match["revision"], inside=match["path"])


def _fault(need: WeightsNeed) -> WeightsError | None:
    try:
        path = resolve_weights(need.ref, sha256=need.sha256, where=need.where)
        for file in sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]:
            _check_file(file, need.where)
    except WeightsError as error:
        return error
    return None


def _check_file(path: Path, where: str) -> None:
    """Refuse a file that is cut off, or not there but by its pointer; its tensors are not read."""
    with path.open("rb") as stream:
        begins = stream.read(64)
    if is_pointer(begins):
        raise WeightsError(f"{where}: {path}: {POINTER_TOLD}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy"):
                pass
    except SafetensorError as error:
        raise WeightsError(f"{where}: {path} cannot be read: {error}") from error


def _explain(ref: str, problem: str, where: str) -> str:
    shown = public_reference(ref)
    if ref.startswith("preset:"):
        known = sorted(p.relative_to(PRESETS).as_posix() for p in PRESETS.glob("*/*"))
        advice = f"presets that ship with the package: {', '.join(known) or 'none'}"
    else:
        key = where or "this reference"
        advice = f"put the weights on a disk that every worker sees and set {key} to their path"
    return f"{where + ': ' if where else ''}{shown}: {problem}; {advice}"
