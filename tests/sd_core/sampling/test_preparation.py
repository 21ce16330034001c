"""What is compiled or recorded of a model for sampling, and what that needs of the machine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sd_core.errors import ExitCode
from sd_core.model.compiling import CompilerError, check_compiler, compile_blocks
from sd_core.model.denoiser import DenoiserConfig, class_name_of, load_denoiser, unwrap_module
from sd_core.sampling.graphs import Graphed
from tests.diffusion_cases import TRANSFORMER, UNET
from tests.pretend_gpu import pretend_gpu


@pytest.mark.parametrize("settings", [UNET, TRANSFORMER], ids=["unet", "transformer"])
def test_the_blocks_that_repeat_are_compiled_and_nothing_else(settings: dict[str, Any]) -> None:
    denoiser = load_denoiser(DenoiserConfig(settings=settings), device="cpu")
    compile_blocks(denoiser)
    names = {
        type(module).__name__
        for module in denoiser.modules()
        if module._compiled_call_impl is not None
    }
    assert names == {"BasicTransformerBlock"}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_machine_without_a_compiler_is_told_of_in_one_line(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = "CC" if device == "cuda" else "CXX"
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompilerError) as caught:
        check_compiler("generate.compile", device=device)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    told = str(caught.value)
    assert told.startswith("generate.compile: torch.compile needs a compiler")
    assert f"(the variable {variable} names one)" in told
    assert "\n" not in told
    own = tmp_path / "my-compiler"
    own.write_text("")
    own.chmod(0o755)
    monkeypatch.setenv(variable, str(own))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(CompilerError, match=r"no Python\.h in "):
        check_compiler("generate.compile", device=device)
    (tmp_path / "Python.h").write_text("")
    check_compiler("generate.compile", device=device)


class _Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, sample: Tensor, *, timestep: Tensor, **given: Any) -> tuple[Tensor]:
        self.calls += 1
        return (self.layer(sample),)


@torch.inference_mode()
def test_each_shape_is_recorded_once_and_replayed() -> None:
    with pretend_gpu() as gpu:
        inner: Any = nn.Module.to(_Denoiser(), device="cuda")
        with gpu.watch() as seen:
            graphed = Graphed(inner)
            assert unwrap_module(graphed) is inner
            assert class_name_of(graphed) == "_Denoiser"

            def call(rows: int) -> Tensor:
                sample = torch.zeros((rows, 4, 8, 8), device="cuda")
                timestep = torch.zeros(rows, device="cuda")
                return graphed(sample, timestep=timestep, return_dict=False)[0]

            assert call(2).shape == (2, 4, 8, 8)
            recorded = inner.calls
            assert call(2) is not call(2)
            assert inner.calls == recorded
            assert call(1).shape == (1, 4, 8, 8)
            assert inner.calls == 2 * recorded
        assert not seen.waits, seen
