"""Which of a configuration's weights are on this machine, and how large: nothing is fetched."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sd_core.errors import causes_of
from sd_core.model.download import NotFetchedError, nothing_fetched
from sd_core.model.weights import (
    WeightsError,
    WeightsNeed,
    check_weights,
    public_reference,
    resolve_weights,
)


@dataclass(frozen=True, kw_only=True)
class WeightsHere:
    """One set of weights that a configuration names.

    Attributes:
        where: The configuration's key.
        ref: What it names, without secrets.
        num_bytes: Of its files; None where it is to be fetched, which tells no size beforehand.
    """

    where: str
    ref: str
    num_bytes: int | None


def look_for_weights(needs: Iterable[WeightsNeed]) -> list[WeightsHere]:
    """Every set of weights, each once; raises the `WeightsError` of those that no fetch mends."""
    found: dict[str, WeightsHere] = {}
    wrong: list[WeightsNeed] = []
    with nothing_fetched():
        for need in needs:
            try:
                size: int | None = _size(resolve_weights(need.ref, where=need.where))
            except WeightsError as error:
                size = None
                if not any(isinstance(cause, NotFetchedError) for cause in causes_of(error)):
                    wrong.append(need)
            ref = public_reference(need.ref)
            found.setdefault(ref, WeightsHere(where=need.where, ref=ref, num_bytes=size))
        check_weights(wrong)
    return list(found.values())


def _size(path: Path) -> int:
    path = path.parent if path.name == "model_index.json" else path  # of a folder of models
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
