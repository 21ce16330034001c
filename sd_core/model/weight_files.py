"""The safetensors files of a model's folder: which hold its weights, and what their headers say."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sd_core.model.weights import WeightsError
from sd_core.plain_json import parse_json

DIFFUSERS_STEM: Final = "diffusion_pytorch_model"
TRANSFORMERS_STEM: Final = "model"


def read_object(path: Path, *, where: str) -> dict[str, Any]:
    """A JSON object of a model's folder; raises `WeightsError` where it is none."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{where}: {path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{where}: {path} holds no JSON object")
    return content


def settings_in(folder: Path, *, where: str, advice: str) -> dict[str, Any]:
    """The `config.json` of a model's folder; raises `WeightsError`, with advice, where it has
    none."""
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(f"{where}: {folder} holds no config.json, so it is no {advice}")
    return read_object(path, where=where)


def weight_files(folder: Path, stem: str, *, where: str) -> list[Path]:
    """The file, or the numbered ones, that `from_pretrained` reads; raises `WeightsError`."""
    whole = folder / f"{stem}.safetensors"
    paths = [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*-of-*.safetensors"))
    if not paths:
        held = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise WeightsError(
            f"{where}: {folder} holds no {whole.name} (it holds {held}); only safetensors are "
            "read, never pickles"
        )
    return paths


def stored_shapes(files: Sequence[Path], *, where: str) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by the files' headers; raises `WeightsError`."""
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with _opened(path) as stream:
                found |= {n: tuple(stream.get_slice(n).get_shape()) for n in stream.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{where}: {path} cannot be read: {error}") from error
    return found


def stored_tensors(files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by name, floats in float32, one in memory at a time.

    Raises:
        OSError, SafetensorError: a file cannot be read.
    """
    places: dict[str, Path] = {}
    for path in files:
        with _opened(path) as stream:
            places |= dict.fromkeys(stream.keys(), path)
    for name, path in sorted(places.items()):
        with _opened(path) as stream:
            tensor = stream.get_tensor(name)
            yield name, tensor.float() if tensor.is_floating_point() else tensor


def _opened(path: Path) -> Any:
    return safe_open(path, framework="pt")
