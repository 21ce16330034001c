"""torch.compile: what it needs of the machine, and of a model only the blocks that repeat."""

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from sd_core.errors import EnvironmentFault

_COMPILERS: Final = {"cuda": ("CC", ("gcc", "clang")), "cpu": ("CXX", ("g++", "clang++"))}
"""By device: the variable that names one, and where Triton and Inductor look else."""
_BLOCKS: Final = ("BasicTransformerBlock",)
_SHAPES: Final = 64  # 4 of one size of images; beyond, a block would run as it is, and slower


class CompilerError(EnvironmentFault):
    """This machine has nothing to compile with."""


def check_compiler(where: str, *, device: str | torch.device) -> None:
    """Before any work: torch.compile writes C for a GPU's kernels to be called, and C++ for a CPU.

    Args:
        where: The configuration key that asks for it, for the error.

    Raises:
        CompilerError: there is no compiler, or Python's headers are missing.
    """
    variable, names = _COMPILERS[torch.device(device).type]
    named = os.environ.get(variable)
    missing = []
    if not any(shutil.which(name) for name in ((named,) if named else names)):
        missing.append(f"no {named or ' and no '.join(names)} (the variable {variable} names one)")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append(f"no Python.h in {sysconfig.get_path('include')}")
    if missing:
        raise CompilerError(
            f"{where}: torch.compile needs a compiler and Python's headers, and "
            f"{os.uname().nodename} has {' and '.join(missing)}. Install them, or set {where} to "
            "false"
        )


def compile_blocks(module: nn.Module) -> None:
    """Compile, in place, the blocks that repeat in a denoiser: once for each shape that they see,
    whichever of them sees it, and so in seconds where the whole takes minutes."""
    dynamo: Any = torch._dynamo
    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, _SHAPES)
    for block in module.modules():
        if type(block).__name__ in (getattr(module, "_repeated_blocks", None) or _BLOCKS):
            block.compile(dynamic=False)
