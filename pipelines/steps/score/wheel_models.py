"""Models that lie in the wheels of the extra `detectors`, run by onnxruntime.

No network is asked, ever: a session is made of the file that the wheel brought, and its sha256 is
part of the step's fingerprint.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from sd_core.errors import InputError
from sd_core.model.weights import digest_file

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

EXTRA: Final = "latent-foundry[detectors]"
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class MissingDetectorError(InputError):
    """A scorer is asked for whose packages are not installed."""


@dataclass(frozen=True)
class WheelModel:
    """A file of an installed package: the package by the name that imports it, the path in it."""

    package: str
    path: str

    def find(self, where: str) -> Path:
        """The file; nothing is imported.

        Args:
            where: The configuration key that asks for it, for the error.

        Raises:
            MissingDetectorError: the package, onnxruntime or the file is not there.
        """
        for package in (self.package, "onnxruntime"):
            if find_spec(package) is None:
                raise MissingDetectorError(
                    f"{where}: {package} is not installed: pip install '{EXTRA}'"
                )
        spec = find_spec(self.package)
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        for folder in folders:
            if (path := Path(folder) / self.path).is_file():
                return path
        raise MissingDetectorError(
            f"{where}: the {self.package} that is installed has no {self.path}: pip install "
            f"'{EXTRA}'"
        )

    def sha256(self, where: str) -> str:
        """Of the file, hashed once a process; raises as `find`."""
        return _digest(self.find(where))

    def describe(self, device: torch.device, where: str) -> str:
        """What a run records of it: its digest, and what it runs on."""
        return f"{self.sha256(where)} on {providers(device)[0]}"

    def open(self, device: torch.device, where: str) -> "InferenceSession":
        """A session with torch's number of threads, on the GPU where there is one for it."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        options.enable_cpu_mem_arena = False  # it would keep the largest picture's memory
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(
            str(self.find(where)), options, providers=providers(device)
        )


def providers(device: torch.device) -> list[str]:
    """What onnxruntime runs on in a worker: its GPU where this build of onnxruntime has CUDA, else
    the CPU."""
    import onnxruntime

    has_cuda = device.type == "cuda" and _CUDA in onnxruntime.get_available_providers()
    return [_CUDA, _CPU] if has_cuda else [_CPU]


@cache
def _digest(path: Path) -> str:
    return digest_file(path)
