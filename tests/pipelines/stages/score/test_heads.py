"""The heads give LAION's published scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.stages.score.heads import HeadConfig, ScoreHead, load_head

V1 = "aesthetic-predictor/sa_0_4_vit_{}_linear.pth"
V2 = "improved-aesthetic-predictor/sac+logos+ava1-l14-linearMSE.pth"


def prototypes(heads: Path, model: str) -> torch.Tensor:
    folder = heads / "aesthetic-predictor" / f"vit_{model}_embeddings"
    rows = [np.load(folder / f"rating{rating}.npy") for rating in range(10)]
    return torch.from_numpy(np.concatenate(rows))


def head(heads: Path, name: str, *, kind: str = "aesthetic", embed_dim: int = 768) -> ScoreHead:
    return load_head(
        HeadConfig(weights=str(heads / name)), kind=kind, embed_dim=embed_dim, where="h"
    )


@pytest.fixture(scope="module")
def heads(shared_data: Path) -> Path:
    return shared_data / "heads"
