"""Which files a source is, and of which format each."""

import io
import posixpath
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa

from pipelines.run.tables import read_parquet
from pipelines.sources.config import SourceError, UnreachableSourceError
from pipelines.sources.files import SourceFile, compression_of, suffix_of
from pipelines.sources.fitting import refuse_several, refuse_unfit, refuse_unknown
from pipelines.sources.formats import FORMATS
from pipelines.sources.hub_data import HUB, find_hub_data
from pipelines.sources.source_config import SourceConfig
from sd_core.errors import has_no_bucket, is_environment
from sd_core.redact import redact_url


def list_files(config: SourceConfig, *, option: str | None = None) -> list[SourceFile]:
    """The source's files, sorted by name.

    Args:
        config: What is listed, and how.
        option: What a user calls its path; that of the list, or of the prompts, by default.

    Raises:
        SourceError: nothing is there, or a file's format cannot be told from its name.
    """
    section = "prompts" if config.url_column == "" else "source"
    where = f"{option or f'{section}.path'} {redact_url(config.path)}"
    if not config.path.startswith(HUB):
        return _list(config, where)
    data = find_hub_data(config.path, where=where)
    kind = data.format if config.format == "auto" else config.format
    local = {"path": str(data.folder), "format": kind, "storage_options": {}}
    return data.of_split(_list(config.model_copy(update=local), where), where=where)


def _list(config: SourceConfig, where: str) -> list[SourceFile]:
    shown = redact_url(config.path)
    try:
        filesystem, path = fsspec.core.url_to_fs(config.path, **config.storage_options)
        root, names = _find(filesystem, path)
        names = _current(filesystem, root, names)
    except (OSError, ImportError, ValueError) as error:
        is_lost = is_environment(error) and not has_no_bucket(error)
        kind = UnreachableSourceError if is_lost else SourceError
        raise kind(f"{where}: cannot be listed: {error}") from None
    if not names:
        raise SourceError(f"{where}: no file found; give a file, a glob or a folder")
    formats = _choose_formats(names, config.format, where)
    takes_folders = any(FORMATS[kind].takes_folders for kind in formats.values())
    if takes_folders and not filesystem.isdir(path):
        raise SourceError(
            f"{where}: pictures are read by the folder; give the folder that holds them"
        )
    whole = len(names) == 1 and root == ""
    return [
        SourceFile(
            name=_display_name(name) if whole else name,
            path=path if whole else f"{root}{name}",
            uri=shown if whole else redact_url(filesystem.unstrip_protocol(f"{root}{name}")),
            format=kind,
            compression=compression_of(name),
            filesystem=filesystem,
        )
        for name, kind in sorted(formats.items())
    ]


def _choose_formats(names: list[str], asked: str, where: str) -> dict[str, str]:
    """Each file that is part of the source, with its format."""
    if asked == "auto":
        _refuse_tfrecords(names, where)
        asked = next((name for name, kind in FORMATS.items() if kind.claims(names)), asked)
    if asked != "auto":
        chosen = FORMATS[asked].choose(names)
        refuse_unfit(names, chosen, asked, FORMATS[asked], where=where)
        return dict.fromkeys(chosen, asked)
    by_suffix = {suffix: name for name, kind in FORMATS.items() for suffix in kind.suffixes}
    told = {name: by_suffix[suffix] for name in names if (suffix := suffix_of(name)) in by_suffix}
    kinds = sorted(set(told.values()))
    if len(kinds) > 1:
        refuse_several(names, kinds, where=where)
    if not kinds:
        refuse_unknown(names, list(by_suffix), where=where)
    return told


def _find(filesystem: fsspec.AbstractFileSystem, path: str) -> tuple[str, list[str]]:
    """The folder's prefix and the file names under it; for a single file, "" and its path."""
    if _is_glob(path) and not filesystem.exists(path):
        fixed = path[: min(path.index(sign) for sign in "*?[" if sign in path)]
        root = fixed.rpartition("/")[0] + "/" if "/" in fixed else ""
        found = filesystem.glob(path, detail=True)
    elif filesystem.isdir(path):
        root = path.rstrip("/") + "/"
        found = filesystem.find(path, detail=True)
    else:
        return "", [path] if filesystem.exists(path) else []
    names = [
        name.removeprefix(root) for name, entry in found.items() if entry.get("type") == "file"
    ]
    return root, sorted(name for name in names if not _is_hidden(name))


def _current(filesystem: fsspec.AbstractFileSystem, root: str, names: list[str]) -> list[str]:
    """Of a folder of a run, the files of its current revision, by its `shards.txt`.

    Others lie beside them: the index, and files that a later revision replaced.
    """
    if not {"shards.txt", "index.parquet"} <= set(names):
        return names
    listed = filesystem.cat_file(f"{root}shards.txt").decode().split()
    current = [posixpath.basename(path) for path in listed]
    missing = sorted(set(current) - set(names))
    if missing:
        raise ValueError(f"its shards.txt lists {missing[0]}, which is not there")
    indexed = _indexed(filesystem.cat_file(f"{root}index.parquet"))
    if current != indexed or len(set(current)) < len(current):
        raise ValueError("its shards.txt and index.parquet do not list the same files; verify it")
    return sorted(current)


def _indexed(index: bytes) -> list[str]:
    try:
        paths = read_parquet(io.BytesIO(index), columns=["path"])["path"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"its index.parquet is damaged: {error}") from error
    return [posixpath.basename(path) for path in paths]


def _is_glob(path: str) -> bool:
    return any(sign in urlsplit(path).path for sign in "*[") or ("?" in path and "://" not in path)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _refuse_tfrecords(names: list[str], where: str) -> None:
    records = [name for name in names if name.endswith(".tfrecord")]
    if any(f"{name.removesuffix('.tfrecord')}.parquet" in names for name in records):
        raise SourceError(
            f"{where}: img2dataset wrote it in its tfrecord layout, which is not read; "
            "set source.format to parquet to fetch the URLs again"
        )


def _display_name(path: str) -> str:
    return posixpath.basename(path.split("?", 1)[0] if "://" in path else path) or "source"
