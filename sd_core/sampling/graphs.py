"""A denoiser whose work on a GPU is recorded once for each shape, and then replayed as a whole.

A call of a UNet is thousands of kernels, which Python takes longer to start than a GPU to run where
a batch is small; a CUDA graph starts them all at once. The kernels are the same.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_WARM_UPS = 2  # for what is chosen, compiled or set aside in a first call


@dataclass(frozen=True)
class _Recording:
    graph: Any
    inputs: list[Tensor]
    output: Tensor

    def replay(self, tensors: list[Tensor]) -> Tensor:
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.output.clone()  # the next replay writes over it


class Graphed(nn.Module):
    """Called as the denoiser that it holds; each new shape of inputs is recorded first.

    Args:
        module: A denoiser of diffusers on a GPU, also with compiled blocks.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._recordings: dict[Any, _Recording] = {}

    def forward(self, *arguments: Any, **options: Any) -> tuple[Tensor]:
        leaves, tree = pytree.tree_flatten((arguments, options))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        shapes = tuple(
            (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves
        )
        key = (tree, shapes)
        if key not in self._recordings:
            try:
                self._recordings[key] = self._record(leaves, tree)
            except BaseException:
                self._recordings.clear()  # what they hold may be what the memory lacks
                raise
        return (self._recordings[key].replay(tensors),)

    def _record(self, leaves: list[Any], tree: Any) -> _Recording:
        own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        arguments, options = pytree.tree_unflatten(own, tree)
        cuda: Any = torch.cuda
        aside = cuda.Stream()
        aside.wait_stream(cuda.current_stream())
        with cuda.stream(aside):
            for _ in range(_WARM_UPS):
                self.module(*arguments, **options)
        cuda.current_stream().wait_stream(aside)
        graph = cuda.CUDAGraph()
        # Other threads go on decoding and encoding texts meanwhile.
        with cuda.graph(graph, capture_error_mode="thread_local"):
            output = self.module(*arguments, **options)[0]
        return _Recording(graph, [leaf for leaf in own if isinstance(leaf, Tensor)], output)
