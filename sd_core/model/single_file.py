"""Single-file checkpoints in the original layout of Stable Diffusion v1, v2 and XL."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from sd_core.model.single_file_names import TensorSource
from sd_core.model.weights import WeightsError

SingleFileLayout = Literal["sd-v1", "sd-v2", "sd-xl"]

_MARKS: Final[dict[SingleFileLayout, str]] = {
    "sd-v1": "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    "sd-v2": "cond_stage_model.model.ln_final.weight",
    "sd-xl": "conditioner.embedders.1.model.ln_final.weight",
}
_PICKLES: Final = (".ckpt", ".pt", ".pth", ".bin")


def is_single_file(ref: str, *, where: str) -> bool:
    """Whether a reference names a checkpoint file rather than a folder.

    Raises:
        WeightsError: it names a file of pickles, which may run code when read.
    """
    name = ref.rstrip("/").rpartition("/")[2]
    if name.endswith(_PICKLES):
        raise WeightsError(
            f"{where}: {name} is a pickle, which may run code when it is read; only .safetensors "
            "files and folders of them are read: convert it, or name the .safetensors file"
        )
    return name.endswith(".safetensors")


def detect_layout(path: Path, *, where: str) -> SingleFileLayout:
    """Tell v1, v2 and XL apart by their text encoders' names.

    Raises:
        WeightsError: it is none of them, or no safetensors file.
    """
    with open_single_file(path, where=where) as stream:
        names = set(stream.keys())
    for layout, mark in _MARKS.items():
        if mark in names:
            return layout
    example = sorted(names)[0] if names else "nothing"
    raise WeightsError(
        f"{where}: {path} is no checkpoint of Stable Diffusion v1, v2 or XL in the original layout "
        f"with its text encoder (it holds {len(names)} tensors, {example} for one); use a "
        "diffusers folder"
    )


def fill_from_single_file(
    module: nn.Module,
    path: Path,
    *,
    source_of: Callable[[str], TensorSource],
    prefix: str,
    may_leave: Callable[[str], bool] = lambda name: False,
    where: str,
) -> None:
    """Give a module, which may be on the meta device, its float32 weights out of a checkpoint.

    Args:
        module: Of the architecture that the file is thought to hold.
        path: A safetensors file.
        source_of: Where each of the module's tensors is.
        prefix: Of the file's tensors that belong to this module.
        may_leave: Which of those may be left over.
        where: The configuration's key, for errors.

    Raises:
        WeightsError: a tensor is missing, of another shape, or left over: another architecture.
    """
    sources = {key: source_of(key) for key in module.state_dict()}
    with open_single_file(path, where=where) as stream:
        names = {name for name in stream.keys() if name.startswith(prefix)}  # noqa: SIM118
        wanted = {source.name for source in sources.values()}
        _refuse(path, wanted - names, "missing", where)
        _refuse(path, (n for n in names - wanted if not may_leave(n)), "left over", where)
        state: dict[str, Tensor] = {}
        for key, tensor in module.state_dict().items():
            found = _take(stream, sources[key])
            if found.numel() == tensor.numel() and found.shape[: tensor.ndim] == tensor.shape:
                found = found.reshape(tensor.shape)  # a 1x1 convolution that is now linear
            if found.shape != tensor.shape:
                raise WeightsError(
                    f"{where}: {path}: {sources[key].name} is {tuple(found.shape)}, and this "
                    f"architecture has {tuple(tensor.shape)}; the file is of another one"
                )
            state[key] = found
    module.load_state_dict(state, strict=True, assign=True)


def _take(stream: Any, source: TensorSource) -> Tensor:
    tensor: Tensor = stream.get_tensor(source.name).to(torch.float32)
    if source.third is not None:
        tensor = tensor.chunk(3)[source.third].clone()
    return tensor.T.contiguous() if source.is_transposed else tensor


def _refuse(path: Path, names: Iterable[str], fault: str, where: str) -> None:
    found = sorted(names)
    if found:
        raise WeightsError(
            f"{where}: {path} is of another architecture: {len(found)} tensors are {fault}, "
            f"{found[0]} for one"
        )


def open_single_file(path: Path, *, where: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{where}: {path} cannot be read as safetensors: {error}") from error
