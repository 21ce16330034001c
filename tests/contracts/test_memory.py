"""A run's scores and latents do not follow where a file puts its weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sd_core.model.weights import PRESETS
from tests import model_cases
from tests.contracts import cases
from tests.contracts.cases import ServedList

pytestmark = pytest.mark.slow


def made_files(run: Path) -> dict[str, set[str]]:
    """Hashes of the scores, verdicts and latents of a run, by their folder."""
    found: dict[str, set[str]] = {}
    for path, digest in cases.data_files(run).items():
        folder = path.rpartition("/")[0]
        if folder in ("_work/facts/score", "ledger", "latents"):
            found.setdefault(folder, set()).add(digest)
    return found


@pytest.mark.parametrize(("past", "suffix"), [(8, ".safetensors"), (40, ".npz")])
def test_a_run_has_the_same_bytes_whatever_the_container_of_its_weights(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path, past: int, suffix: str
) -> None:
    tiny = tmp_path / "tiny"
    shutil.copytree(PRESETS / "tiny", tiny)
    model_cases.shift_tensors(tiny, past=past)
    head = tiny / "aesthetic.safetensors"
    if suffix == ".npz":
        arrays = {name: tensor.numpy() for name, tensor in load_file(head).items()}
        np.savez(head.with_suffix(suffix), **arrays)
    config = cases.configuration(
        served_list.path,
        tmp_path / "run",
        score__clip__name=tiny / "clip",
        score__aesthetic_v1__weights=head.with_suffix(suffix),
        encode__autoencoder__model=tiny / "autoencoder",
        encode__text_encoder__clip__name=tiny / "clip",
    )
    cases.run(config)
    expected = made_files(unharmed_run)
    assert set(expected) == {"_work/facts/score", "ledger", "latents"}
    assert made_files(tmp_path / "run") == expected


def test_torch_allocates_where_this_project_counts_on_it() -> None:
    for count in (1, 7, 1000, 100_000):
        assert torch.empty(count, dtype=torch.uint8).data_ptr() % 64 == 0
