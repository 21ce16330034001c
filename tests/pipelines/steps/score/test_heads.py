"""The heads give LAION's published scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.steps.score.heads import HeadConfig, HeadKind, ScoreHead, load_head
from sd_core.model.weights import WeightsError
from tests import model_cases

V1_B32 = "aesthetic-predictor/sa_0_4_vit_b_32_linear.pth"
V1_L14 = "aesthetic-predictor/sa_0_4_vit_l_14_linear.pth"
V2_L14 = "improved-aesthetic-predictor/sac+logos+ava1-l14-linearMSE.pth"
NSFW_B32 = "nsfw-detector/clip_autokeras_nsfw_b32.npz"
NSFW_L14 = "nsfw-detector/clip_autokeras_binary_nsfw.npz"

# (head, embeddings, length): scores of LAION's prototypes rating0 ... rating9.
PUBLISHED = {
    (V1_B32, "b_32", 512): [
        *(-1.4700, 0.2728, 1.9900, 3.6114, 5.0874),
        *(6.3926, 7.6682, 8.9155, 9.9166, 11.0056),
    ],
    (V1_L14, "l_14", 768): [
        *(-2.4579, -0.1379, 1.8951, 3.5849, 5.0997),
        *(6.4701, 7.7870, 9.0480, 10.2264, 11.3044),
    ],
    (V2_L14, "l_14", 768): [
        *(1.6555, 2.3593, 3.0698, 3.6725, 4.2380),
        *(4.7010, 5.0731, 5.3654, 5.5767, 5.7468),
    ],
}
QUOTED = {  # of rating0 and rating9, in the data's own README
    V1_B32: (-1.47, 11.01),
    V1_L14: (-2.46, 11.30),
    V2_L14: (1.66, 5.75),
}


@pytest.fixture(scope="module")
def heads(shared_data: Path) -> Path:
    return shared_data / "heads"


def prototypes(heads: Path, model: str) -> torch.Tensor:
    folder = heads / "aesthetic-predictor" / f"vit_{model}_embeddings"
    return torch.from_numpy(
        np.concatenate([np.load(folder / f"rating{rating}.npy") for rating in range(10)])
    )


def load(path: Path, *, kind: HeadKind = "aesthetic", embed_dim: int = 768) -> ScoreHead:
    config = HeadConfig(weights=str(path))
    return load_head(config, kind=kind, embed_dim=embed_dim, where="score.head")


@pytest.mark.parametrize(("case", "scores"), PUBLISHED.items(), ids=["V1 B/32", "V1 L/14", "V2"])
@pytest.mark.parametrize("scale", [1, 3])
def test_prototypes_get_their_published_scores(
    heads: Path, case: tuple[str, str, int], scores: list[float], scale: int
) -> None:
    name, model, embed_dim = case
    found = load(heads / name, embed_dim=embed_dim)(prototypes(heads, model) * scale)
    np.testing.assert_allclose(found, scores, atol=2e-4)
    np.testing.assert_allclose(found[[0, 9]], QUOTED[name], atol=0.01)


def test_nsfw_head_scores_real_photographs_as_safe(heads: Path) -> None:
    embeddings = torch.from_numpy(np.load(heads / "clip_retrieval_vitb32_image_embs.npy"))
    scores = load(heads / NSFW_B32, kind="nsfw", embed_dim=512)(embeddings)
    assert scores.shape == (7,)
    assert scores.max() < 0.05
    expected = [1.9e-8, 2.6e-8, 1.6e-10, 1.8e-9, 4.7e-6, 7.3e-11, 2.55e-2]
    np.testing.assert_allclose(scores, expected, rtol=0.05)


def test_nsfw_head_of_l14_is_the_published_formula(heads: Path) -> None:
    embeddings = prototypes(heads, "l_14")
    weights = np.load(heads / NSFW_L14)
    hidden = embeddings.numpy().astype(np.float64)
    hidden[:, weights["categorical_columns"]] = 1  # out of the vocabulary
    hidden = (hidden - weights["norm.mean"]) / np.sqrt(weights["norm.variance"])
    for layer in range(4):
        hidden = np.maximum(hidden, 0) if layer else hidden
        hidden = hidden @ weights[f"dense{layer}.weight"].T + weights[f"dense{layer}.bias"]
    expected = 1 / (1 + np.exp(-hidden[:, 0]))
    scores = load(heads / NSFW_L14, kind="nsfw")(embeddings)
    np.testing.assert_allclose(scores, expected, rtol=1e-3)
    assert scores.max() < 1e-3


def test_nsfw_normalisation_is_part_of_the_score(heads: Path) -> None:
    head = load(heads / NSFW_B32, kind="nsfw", embed_dim=512)
    embeddings = torch.from_numpy(np.load(heads / "clip_retrieval_vitb32_image_embs.npy"))
    before = head(embeddings)
    head.mean.zero_()
    assert (head(embeddings) - before).abs().max() > 0.01


def test_a_head_for_another_clip_is_refused_naming_both_lengths(tmp_path: Path) -> None:
    path = model_cases.aesthetic_head(tmp_path / "head.safetensors", embed_dim=768)
    with pytest.raises(WeightsError, match=r"score\.head: .* length 768, but the CLIP gives 512"):
        load(path, embed_dim=512)


def test_an_aesthetic_head_is_no_nsfw_head(tmp_path: Path) -> None:
    path = model_cases.aesthetic_head(tmp_path / "head.safetensors")
    with pytest.raises(WeightsError, match=r"not a head of kind nsfw: 'norm\.mean'"):
        load(path, kind="nsfw", embed_dim=16)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"weight": Bomb()}, tmp_path / "head.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        load(tmp_path / "head.pth")
    assert not (tmp_path / "ran").exists()


def test_npz_safetensors_and_pth_of_one_head_score_alike(tmp_path: Path) -> None:
    path = model_cases.aesthetic_head(tmp_path / "head.safetensors")
    from safetensors.torch import load_file

    tensors = load_file(path)
    torch.save(tensors, tmp_path / "head.pth")
    np.savez(tmp_path / "head.npz", **{k: v.numpy() for k, v in tensors.items()})
    embeddings = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    suffixes = (".safetensors", ".pth", ".npz")
    scores = [load(path.with_suffix(s), embed_dim=16)(embeddings) for s in suffixes]
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])
