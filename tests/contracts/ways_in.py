"""The same pictures with the same captions, in every form in which people have them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.contracts.source_cases import write_tar

COMMIT = "0123456789" * 4


@dataclass(frozen=True)
class Pictures:
    """Files of pictures, and the captions of each."""

    contents: list[bytes]
    captions: list[list[str | None]]

    @property
    def names(self) -> list[str]:
        """As files are called."""
        return [f"{number:05d}.jpg" for number in range(len(self.contents))]

    def table(self, captions: str = "caption") -> pa.Table:
        """As `datasets` writes pictures to Parquet."""
        pairs = zip(self.contents, self.names, strict=True)
        images = [{"bytes": content, "path": name} for content, name in pairs]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        return pa.table({"image": pa.array(images, kind), captions: self.captions})


def _parquet(given: Pictures, folder: Path) -> None:
    pq.write_table(given.table(), folder / "set.parquet", row_group_size=2)


def _huggingface(given: Pictures, folder: Path) -> None:
    import datasets

    features = {
        "image": datasets.Image(),
        "caption": datasets.List(datasets.Value("string")),
    }
    told = {"image": given.table()["image"].to_pylist(), "caption": given.captions}
    made = datasets.Dataset.from_dict(told, features=datasets.Features(features))
    made.save_to_disk(str(folder))


def _tar(given: Pictures, folder: Path) -> None:
    members = []
    for name, content, texts in zip(given.names, given.contents, given.captions, strict=True):
        told = json.dumps({"caption": texts}).encode()
        members += [(name, content), (name.replace(".jpg", ".json"), told)]
    write_tar(folder / "set.tar", members)


def _files(given: Pictures, folder: Path) -> None:
    for name, content in zip(given.names, given.contents, strict=True):
        (folder / name).write_bytes(content)


def _folder(given: Pictures, folder: Path) -> None:
    _files(given, folder)
    pairs = zip(given.names, given.captions, strict=True)
    told = [json.dumps({"file_name": name, "caption": texts}) for name, texts in pairs]
    (folder / "metadata.jsonl").write_text("\n".join(told))


def _json_lines(given: Pictures, folder: Path) -> None:
    (folder / "pictures").mkdir()
    _files(given, folder / "pictures")
    pairs = zip(given.names, given.captions, strict=True)
    told = [json.dumps({"url": f"{folder}/pictures/{n}", "caption": texts}) for n, texts in pairs]
    (folder / "list.jsonl").write_text("\n".join(told))


def _urls(given: Pictures, folder: Path) -> None:
    (folder / "pictures").mkdir()
    _files(given, folder / "pictures")
    urls = [f"file://{folder}/pictures/{name}" for name in given.names]
    pq.write_table(pa.table({"url": urls, "caption": given.captions}), folder / "list.parquet")


def _img2dataset(given: Pictures, folder: Path, **columns: Any) -> None:
    keys = [name.removesuffix(".jpg") for name in given.names]
    told = {"url": [f"http://127.0.0.1:9/{n}" for n in given.names], "key": keys}
    told |= {"caption": given.captions, "status": ["success"] * len(keys), **columns}
    pq.write_table(pa.table(told), folder / "00000.parquet")


def _img2dataset_tars(given: Pictures, folder: Path) -> None:
    _img2dataset(given, folder)
    write_tar(folder / "00000.tar", zip(given.names, given.contents, strict=True))


def _img2dataset_files(given: Pictures, folder: Path) -> None:
    _img2dataset(given, folder)
    (folder / "00000").mkdir()
    _files(given, folder / "00000")


def _img2dataset_parquet(given: Pictures, folder: Path) -> None:
    _img2dataset(given, folder, jpg=given.contents)


_WAYS: dict[str, tuple[str, Callable[[Pictures, Path], None]]] = {
    "parquet_images": ("parquet_images", _parquet),
    "huggingface": ("auto", _huggingface),
    "webdataset": ("auto", _tar),
    "folder": ("auto", _folder),
    "jsonl": ("jsonl", _json_lines),
    "urls": ("parquet", _urls),
    "img2dataset": ("auto", _img2dataset_tars),
    "img2dataset_files": ("auto", _img2dataset_files),
    "img2dataset_parquet": ("img2dataset", _img2dataset_parquet),
}
WAYS = list(_WAYS)


def write_source(way: str, given: Pictures, folder: Path) -> list[str]:
    """The pictures in that form in a folder; returns the settings that read it."""
    folder.mkdir(parents=True, exist_ok=True)
    kind, write = _WAYS[way]
    write(given, folder)
    return [f"source.format={kind}", f"source.files_root={folder}"]


def prepare(
    cache: Path, repo: str, commit: str, configuration: str = "default", **files: Path
) -> None:
    """What `load_dataset(repo, configuration, revision=commit)` leaves in the cache of `datasets`,
    made by it from local files of Parquet, by split."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    builder = Parquet(
        cache_dir=str(cache),
        dataset_name=repo.partition("/")[2],
        config_id=configuration,
        hash=commit,
        data_files={split: [str(path)] for split, path in files.items()},
    )
    builder.repo_id = repo  # with it, the library takes files of the hub alone
    builder._output_dir = builder._cache_dir = builder._build_cache_dir()
    builder.download_and_prepare()
