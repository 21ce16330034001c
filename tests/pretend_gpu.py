"""A pretend CUDA device: real code runs on it without a GPU, and each synchronisation is counted.

    with pretend_gpu() as gpu:
        models = load_score_models(config, device="cuda")
        with gpu.watch() as seen:
            score_images(models, images, captions=captions)
    assert len(seen.waits) <= 1, seen

Tensors on `cuda` are PyTorch's fake ones: they have shape, type and device, every operation checks
them as a kernel would (tensors of two devices in one are refused), and none computes. Tensors on
the CPU stay real. What comes back from the device is zeros, True for bool, and no row is ever NaN;
so no result means anything, and a test looks at what was waited for. Threads that start inside see
the device too. Of CUDA's streams, events and memory there are stubs. Its backward does not run.

Counted, by the line of our own code that asked: `.item()`, `bool()`, `.tolist()`, `nonzero` and
what needs it; every copy between CPU and device, and whether the CPU waits for it, which
`non_blocking` between pinned memory and the device spares; `synchronize()` of an event, a stream
or the device.
"""

import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _push_mode
from torch.utils._pytree import tree_flatten

_ROOT = Path(__file__).resolve().parents[1]
_OURS = tuple(str(_ROOT / folder) + "/" for folder in ("sd_core", "pipelines", "jobs"))
_aten: Any = torch.ops.aten
_MEMORY_BYTES = 139 << 30


@dataclass(frozen=True)
class Event:
    """Something that crossed between CPU and device, or was waited for.

    Attributes:
        kind: `value` is one read by the program (`.item()`, a size that `nonzero` finds).
        waits: Whether the CPU stood still for it.
        where: `file:line` of our own code; of the test where none is on the stack.
        num_bytes: Of a copy.
    """

    kind: Literal["value", "to_device", "to_host", "synchronize"]
    waits: bool
    where: str
    num_bytes: int = 0


@dataclass
class Seen:
    """What happened while it was watched, in order."""

    events: list[Event] = field(default_factory=list)

    @property
    def waits(self) -> list[Event]:
        """For which the CPU stood still."""
        return [event for event in self.events if event.waits]

    def copies(self, kind: Literal["to_device", "to_host"]) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def __str__(self) -> str:
        lines = [f"{'waits' if e.waits else 'passes'} {e.kind} {e.where}" for e in self.events]
        return "\n".join(lines) or "nothing"


class PretendGpu:
    """Of `pretend_gpu`."""

    device = torch.device("cuda")

    def __init__(self) -> None:
        self._watching: list[Seen] = []

    @contextmanager
    def watch(self) -> Iterator[Seen]:
        """What happens inside, in every thread."""
        seen = Seen()
        self._watching.append(seen)
        try:
            yield seen
        finally:
            self._watching.remove(seen)

    def note(
        self,
        kind: Literal["value", "to_device", "to_host", "synchronize"],
        *,
        waits: bool = True,
        num_bytes: int = 0,
    ) -> None:
        if self._watching:
            event = Event(kind, waits, _asked_by(), num_bytes)
            for seen in self._watching:
                seen.events.append(event)


@contextmanager
def pretend_gpu() -> Iterator[PretendGpu]:
    """The device `cuda`, until the end of the block; models are to be loaded inside it."""
    gpu = PretendGpu()
    fake, counting = _Fake(allow_non_fake_inputs=True), _Counting(gpu)
    start = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        _push_mode(fake)  # a thread's own stack, which ends with it
        _push_mode(counting)
        start(thread)

    with ExitStack() as stack:
        for name, stub in _cuda_stubs(gpu).items():
            stack.enter_context(patch.object(torch.cuda, name, stub))
        stack.enter_context(patch.object(threading.Thread, "run", run))
        stack.enter_context(patch.object(FakeTensor, "tolist", lambda one: one.cpu().tolist()))
        stack.enter_context(patch.object(Tensor, "record_stream", lambda tensor, stream: None))
        stack.enter_context(fake)
        stack.enter_context(counting)
        yield gpu


class _Fake(FakeTensorMode):
    avoid_device_init = True  # asks `is_available`, which says that there is one


class _Counting(TorchDispatchMode):
    """Above the fake mode: what the CPU does alone is really done, the rest is noted and passed."""

    def __init__(self, gpu: PretendGpu) -> None:
        super().__init__()
        self._gpu = gpu
        self._pinned: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (_aten.pin_memory.default, _aten._pin_memory.default):
            return self._pin(_really(_aten.clone.default, (args[0],), {}))
        if func is _aten.is_pinned.default:
            return self._is_pinned(args[0])
        pins = bool(kwargs.pop("pin_memory", None))
        if not any(_is_of_device(one) for one in tree_flatten((args, kwargs))[0]):
            made = _really(func, args, kwargs)
            return self._pin(made) if pins else made
        if (
            func.namespace == "aten" and torch.is_inference_mode_enabled()
        ):  # where `to` and others come whole
            with self:
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        if func is _aten._to_copy.default:
            return self._to_copy(func, args, kwargs)
        if func is _aten.copy_.default:
            return self._copy(func, args, kwargs)
        if (value := _VALUES.get(func)) is not None:
            self._gpu.note("value")
            return value(*args, **kwargs)
        if func is _aten.index.Tensor and any(_is_mask(one) for one in args[1]):
            self._gpu.note("value")
            return func(args[0], [_where_true(one) for one in args[1]])
        return func(*args, **kwargs)

    def _to_copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        source, made = args[0], func(*args, **kwargs)
        non_blocking = bool(kwargs.get("non_blocking"))
        if _on_cuda(source) and not _on_cuda(made):
            self._gpu.note("to_host", waits=True, num_bytes=made.nbytes)  # to memory not pinned
            return _come_back(made)
        if not _on_cuda(source) and _on_cuda(made):
            self._to_device(source, non_blocking=non_blocking)
        return made

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        target, source = args[:2]
        non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        if _on_cuda(source) and not _on_cuda(target):
            passes = non_blocking and self._is_pinned(target)
            self._gpu.note("to_host", waits=not passes, num_bytes=target.nbytes)
            return _really(_aten.fill_.Scalar, (target, target.dtype == torch.bool), {})
        if not _on_cuda(source):
            self._to_device(source, non_blocking=non_blocking)
        return func(*args, **kwargs)

    def _to_device(self, source: Tensor, *, non_blocking: bool) -> None:
        passes = non_blocking and self._is_pinned(source)
        self._gpu.note("to_device", waits=not passes, num_bytes=source.nbytes)

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned.add(tensor.untyped_storage())
        return tensor

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not _on_cuda(tensor) and tensor.untyped_storage() in self._pinned


def _really(func: Any, args: Any, kwargs: Any) -> Any:
    with unset_fake_temporarily():
        return func(*args, **kwargs)


def _is_of_device(argument: Any) -> bool:
    if isinstance(argument, torch.device):
        return argument.type == "cuda"
    return isinstance(argument, FakeTensor)


def _on_cuda(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def _come_back(made: Any) -> Any:
    """A real tensor for a fake one that was copied to the CPU."""
    with unset_fake_temporarily():
        return torch.full(made.shape, made.dtype == torch.bool, dtype=made.dtype, device="cpu")


def _value(tensor: Tensor) -> Any:
    if tensor.dtype == torch.bool:
        return True
    return 0.0 if tensor.dtype.is_floating_point else 0


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _where_true(index: Tensor | None) -> Tensor | None:
    """As though all of a mask (of one axis) were true."""
    if not _is_mask(index):
        return index
    rows: Any = index
    assert rows.ndim == 1, "a mask of several axes is not pretended"
    return torch.arange(len(rows), device="cuda")


_VALUES: dict[Any, Callable[..., Any]] = {
    _aten._local_scalar_dense.default: _value,
    _aten.is_nonzero.default: _value,
    _aten.equal.default: lambda one, other: one.shape == other.shape,
    _aten._linalg_check_errors.default: lambda *arguments, **options: None,
    _aten.nonzero.default: lambda mask: torch.zeros(
        (mask.numel(), mask.ndim), dtype=torch.long, device="cuda"
    ),
    _aten.masked_select.default: lambda values, mask: torch.empty(
        (mask.numel(),), dtype=values.dtype, device="cuda"
    ),
}
"""Operations that make the CPU wait for the device, and what they say here."""


def _asked_by() -> str:
    outer = None
    for frame, line in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if file.startswith(_OURS):
            return f"{Path(file).relative_to(_ROOT)}:{line}"
        if outer is None and file.startswith(str(_ROOT / "tests")) and file != __file__:
            outer = f"{Path(file).relative_to(_ROOT)}:{line}"
    return outer or "?"


def _cuda_stubs(gpu: PretendGpu) -> dict[str, Any]:
    class Handle:
        """A stream, an event or a graph."""

        def __init__(self, *args: Any, **options: Any) -> None:
            self.device = torch.device("cuda", 0)

        def synchronize(self) -> None:
            gpu.note("synchronize")

        def query(self) -> bool:
            return True

        def elapsed_time(self, other: Any) -> float:
            return 1.0

        def record_event(self, event: Any = None) -> Any:
            return event or Handle()

        def __getattr__(self, name: str) -> Any:
            if name in ("record", "replay", "wait", "wait_event", "wait_stream"):
                return lambda *args, **options: None
            raise AttributeError(name)

    class Block(nullcontext[None]):
        """A class, which libraries name in their types."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__()

    properties = SimpleNamespace(total_memory=_MEMORY_BYTES, major=9, minor=0, name="pretend")
    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "a pretend GPU",
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (_MEMORY_BYTES, _MEMORY_BYTES),
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: gpu.note("synchronize"),
        "CUDAGraph": Handle,
        "graph": Block,
        "Stream": Handle,
        "Event": Handle,
        "current_stream": lambda device=None: Handle(),
        "stream": lambda stream: nullcontext(),
        "device": Block,
    }
