"""Data sets of Hugging Face's hub, as the `datasets` library keeps them on this machine: nothing is
fetched. Also lists of URLs in its files, which hold no pictures."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipelines.sources.columns import TextColumns, recognise_columns
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.image_tables import HuggingFaceData, arrow_pictures
from pipelines.sources.rows import RawRows

_REF: Final = re.compile(
    r"hub:(?P<owner>[^/@\s]+)/(?P<name>[^/@\s]+)@(?P<revision>[^/@\s]+)"
    r"(/(?P<configuration>[^/@\s]+)(/(?P<split>[^/@\s]+))?)?"
)
HUB: Final = "hub:"
_SPLIT: Final = re.compile(r".*-([^-]+?)(-\d{5}-of-\d{5})?\.arrow")
_COMMIT: Final = re.compile("[0-9a-f]{40}")


class HuggingFaceUrls(HuggingFaceData):
    """A list of URLs in the same files."""

    holds_images = False

    def claims(self, names: Sequence[str]) -> bool:
        return False

    def texts(self, names: Sequence[str], config: ReadingConfig, file: SourceFile) -> TextColumns:
        return recognise_columns(
            names,
            url_column=config.url_column,
            caption_column=config.caption_column,
            where=file.uri,
        )

    def pictures(self, file: SourceFile, config: ReadingConfig) -> list[str]:
        return arrow_pictures(file)

    def named(self, raw: RawRows, start_row: int) -> RawRows:
        return raw


@dataclass(frozen=True, kw_only=True)
class HubData:
    """A data set in the cache.

    Attributes:
        folder: With its files of Arrow.
        split: The only one that is read; None for all.
        format: By its features.
    """

    folder: Path
    split: str | None
    format: str

    def of_split(self, files: Sequence[SourceFile], *, where: str) -> list[SourceFile]:
        """The files of the split: `name-train.arrow`, or `name-train-00000-of-00002.arrow`.

        Raises:
            SourceError: there are none; names the splits.
        """
        splits = {file.name: _SPLIT.sub(r"\1", file.name) for file in files}
        found = [file for file in files if self.split in (None, splits[file.name])]
        if not found:
            there = ", ".join(sorted({*splits.values()}))
            raise SourceError(f"{where}: has no split {self.split!r}; it has {there}")
        return found


def find_hub_data(ref: str, *, where: str) -> HubData:
    """Where the cache of `datasets` has `hub:org/name@revision[/configuration[/split]]`.

    Raises:
        SourceError: it is not there, or more than one configuration is; says what to do.
    """
    match = _REF.fullmatch(ref)
    if match is None:
        raise SourceError(
            f"{where}: not of the form hub:org/name@revision[/configuration[/split]]; the revision "
            "is there so that the same configuration always means the same rows"
        )
    owner, name, revision = match["owner"], match["name"], match["revision"]
    commit = _commit(owner, name, revision)
    cache = _cache("HF_DATASETS_CACHE", "datasets")
    found = _prepared(cache, owner, name)
    chosen = [
        path
        for path in found
        if path.name == commit and match["configuration"] in (None, path.parts[-3])
    ]
    if len(chosen) == 1:
        info = json.loads((chosen[0] / "dataset_info.json").read_text())
        features = json.dumps(info.get("features"))
        has_pictures = '"Image"' in features or '"binary"' in features
        kind = "huggingface" if has_pictures else "huggingface_urls"
        return HubData(folder=chosen[0], split=match["split"], format=kind)
    configurations = ", ".join(sorted(path.parts[-3] for path in chosen))
    if chosen:
        raise SourceError(
            f"{where}: has the configurations {configurations}; name one: "
            f"hub:{owner}/{name}@{revision}/{chosen[0].parts[-3]}"
        )
    there = ", ".join(sorted(f"{path.name}/{path.parts[-3]}" for path in found)) or "nothing"
    told = f"'{owner}/{name}'" + (f", '{match['configuration']}'" if match["configuration"] else "")
    raise SourceError(
        f"{where}: not in the cache of `datasets` ({cache}, by HF_DATASETS_CACHE or HF_HOME), "
        f"which has {there} of it; where there is a network: pip install datasets, then python -c "
        f"\"from datasets import load_dataset; load_dataset({told}, revision='{revision}')\""
    )


def _commit(owner: str, name: str, revision: str) -> str:
    """The commit that a branch or tag was at when the hub's client last saw it."""
    if _COMMIT.fullmatch(revision):
        return revision
    ref = _cache("HF_HUB_CACHE", "hub") / f"datasets--{owner}--{name}/refs/{revision}"
    return ref.read_text().strip() if ref.is_file() else revision


def _prepared(cache: Path, owner: str, name: str) -> list[Path]:
    """Every revision and configuration of a data set: `<name>/<configuration>/<version>/<commit>`;
    `datasets` writes capitals as underscores."""
    plain = name.replace("_", "").lower()
    return [
        path.parent
        for path in cache.glob(f"{owner}___*/*/*/*/dataset_info.json")
        if path.parts[-5].removeprefix(f"{owner}___").replace("_", "") == plain
    ]


def _cache(variable: str, folder: str) -> Path:
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return Path(os.environ.get(variable) or os.path.join(home, folder)).expanduser()
