"""Train the tiny CLIP: `python -m jobs.tiny.train_clip`.

Contrastive training on drawn pictures, flawed ones included, each with a true caption. Three
helps make minutes of CPU time enough, and are dropped after training: linear heads that name the
attributes from either embedding, one that names the flaw from the image's, and a margin that
keeps cosines comparable between pictures. The result is a folder for open_clip's "local-dir:".
"""

import argparse
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from jobs.tiny.deliveries import SIDE, Delivery, deliver, normalized, random_caption
from jobs.tiny.drawing import (
    BACKGROUNDS,
    COLORS,
    FIRST_HELD_OUT_SEED,
    FLAWS,
    POSITIONS,
    SHAPES,
    SIZES,
    plan_pictures,
)
from jobs.tiny.embedding import embed_images, embed_texts
from jobs.tiny.loading import TINY
from jobs.tiny.pacing import Pace
from jobs.tiny.word_pieces import (
    CONTEXT_LENGTH,
    VOCABULARY_SIZE,
    load_tokenizer,
)

LOG = logging.getLogger(__name__)
EMBEDDING_WIDTH = 128
ATTRIBUTES: dict[str, list[str]] = {
    "shape": list(SHAPES),
    "color": list(COLORS),
    "background": list(BACKGROUNDS),
    "size": list(SIZES),
    "position": list(POSITIONS),
}
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": EMBEDDING_WIDTH,
        "quick_gelu": False,
        "vision_cfg": {
            "image_size": SIDE,
            "layers": [1, 1, 1, 1],
            "width": 16,
            "head_width": 64,
            "patch_size": None,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": VOCABULARY_SIZE,
            "hf_tokenizer_name": "tokenizer",
            "width": 128,
            "heads": 4,
            "layers": 3,
            "pool_type": "argmax",
        },
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


class Heads(nn.Module):
    """Linear heads used only in training: attributes from both embeddings, flaw from images'."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = sum(map(len, ATTRIBUTES.values()))
        self.image = nn.Linear(EMBEDDING_WIDTH, self.classes + len(FLAWS))
        self.text = nn.Linear(EMBEDDING_WIDTH, self.classes)

    def losses(self, image: torch.Tensor, text: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy; embeddings (b, 128), labels int64 (b, 6): attributes, then flaw."""
        total = torch.zeros(())
        for logits in (self.image(image), self.text(text)):
            start = 0
            for column, values in enumerate(ATTRIBUTES.values()):
                end = start + len(values)
                total = total + functional.cross_entropy(logits[:, start:end], labels[:, column])
                start = end
        flaw_logits = self.image(image)[:, self.classes :]
        return total + 2 * functional.cross_entropy(flaw_logits, labels[:, -1])


def build_clip() -> open_clip.CLIP:
    """The untrained model of CONFIG."""
    parts = CONFIG["model_cfg"]
    return open_clip.CLIP(**json.loads(json.dumps(parts)))


def train_tiny_clip(
    data: Delivery,
    *,
    steps: int,
    minutes: float | None,
    seed: int,
    batch_size: int,
    rate: float,
) -> open_clip.CLIP:
    """Train from scratch on `data` with the captions of its subjects."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model, heads = build_clip(), Heads()
    LOG.info("the CLIP has %d parameters", sum(part.numel() for part in model.parameters()))
    tokenizer: Any = load_tokenizer(TINY / "tokenizer")
    labels = _labels(data)
    held_out = deliver(plan_pictures(FIRST_HELD_OUT_SEED, 300))
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *heads.parameters()], lr=rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    pace, step = Pace(steps, minutes), 0
    while (progress := pace.progress(step)) < 1:
        optimizer.param_groups[0]["lr"] = pace.rate(progress, peak=rate)
        chosen = rng.integers(len(data.subjects), size=batch_size)
        captions = [random_caption(data.subjects[place], rng) for place in chosen]
        images = normalized(_varied(data.images[chosen], rng))
        loss = _loss(model, heads, images, _tokens(tokenizer, captions), labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        step += 1
        if step % 50 == 0:
            figures = _separation(model.eval(), tokenizer, held_out)
            model.train()
            LOG.info("step %d: loss %.3f, %s, %.0f s", step, loss.item(), figures, pace.seconds)
    figures = _separation(model.eval(), tokenizer, held_out)
    LOG.info("%d steps: %s, %.0f s", step, figures, pace.seconds)
    return model


def save(model: open_clip.CLIP, folder: Path, *, tokenizer_folder: Path) -> None:
    """Write open_clip_config.json, half precision safetensors and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    for path in tokenizer_folder.iterdir():
        shutil.copy(path, folder / path.name)


def _tokens(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    rows = tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=CONTEXT_LENGTH,
        return_tensors="pt",
    )
    ids: torch.Tensor = rows.input_ids
    return ids


def _loss(
    model: open_clip.CLIP,
    heads: Heads,
    images: torch.Tensor,
    tokens: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    image_features = model.encode_image(images)
    text_features = model.encode_text(tokens)
    cosines = (
        functional.normalize(image_features, dim=-1) @ functional.normalize(text_features, dim=-1).T
    )
    # Another picture with the same caption in the batch is no wrong answer.
    same = (labels[:, None, :-1] == labels[None, :, :-1]).all(dim=-1)
    same.fill_diagonal_(False)
    logits = (model.logit_scale.exp() * cosines).masked_fill(same, -1e4)
    target = torch.arange(len(images))
    contrast = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    # As wrong as the flaw "wrong_caption": another shape and another color.
    wrong = (labels[:, None, :2] != labels[None, :, :2]).all(dim=-1)
    margin = functional.relu(0.7 - cosines.diagonal()).square().mean()
    margin = margin + functional.relu(cosines[wrong] - 0.2).square().mean()
    total: torch.Tensor = contrast / 2 + 5 * margin
    return total + 0.3 * heads.losses(image_features, text_features, labels)


def _labels(data: Delivery) -> torch.Tensor:
    flaw_places = {flaw: place + 1 for place, flaw in enumerate(FLAWS[:3])}
    rows = [
        [values.index(getattr(subject, name)) for name, values in ATTRIBUTES.items()]
        + [flaw_places.get(flaw, 0) if flaw else 0]
        for subject, flaw in zip(data.subjects, data.flaws, strict=True)
    ]
    return torch.tensor(rows)


def _varied(images: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Shifted by up to two pixels (edges repeated), the whole batch alike."""
    down, across = rng.integers(-2, 3, size=2)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    return padded[:, 2 + down : 2 + down + SIDE, 2 + across : 2 + across + SIDE]


def _separation(model: open_clip.CLIP, tokenizer: Any, data: Delivery) -> str:
    images = embed_images(model, data.images)
    cosines = (images * embed_texts(model, _tokens(tokenizer, data.captions))).sum(dim=-1).numpy()
    right = cosines[[flaw is None for flaw in data.flaws]]
    wrong = cosines[[flaw == "wrong_caption" for flaw in data.flaws]]
    area = float((right[:, None] > wrong[None]).mean())
    low, high = np.quantile(right, 0.02), np.quantile(wrong, 0.98)
    return f"AUC {area:.4f}, right 2% {low:.2f}, wrong 98% {high:.2f}"


def main() -> None:
    """Parse the command line, train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=TINY / "clip")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    torch.set_num_threads(options.threads)
    data = deliver(plan_pictures(0, options.pictures), low_quality=80, high_quality=95)
    LOG.info("drew %d pictures", options.pictures)
    model = train_tiny_clip(
        data,
        steps=options.steps,
        minutes=options.minutes,
        seed=options.seed,
        batch_size=options.batch_size,
        rate=options.rate,
    )
    save(model, options.output, tokenizer_folder=TINY / "tokenizer")
    LOG.info("saved to %s", options.output)


if __name__ == "__main__":
    main()
