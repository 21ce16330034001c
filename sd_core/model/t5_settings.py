"""Which keys of a T5 encoder's and its tokenizer's files are honoured; see `settings_check`.

Source: Raffel et al. 2019, arXiv:1910.10683; Stable Diffusion 3 attends to its padding, unmasked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sd_core.model.settings_check import Decisions, Limited, SettingsError, check_settings
from sd_core.model.text_encoder_settings import TEXT_ENCODER_DECISIONS, TOKENIZER_DECISIONS
from sd_core.model.weight_files import read_object

_DECODER: Final = "of the decoder, which is not there"
_FOLLOWS: Final = "follows from feed_forward_proj"
_CLIP: Final = TEXT_ENCODER_DECISIONS
_TOKENIZER_CLASSES: Final = ("T5Tokenizer", "T5TokenizerFast")

T5_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            "architectures",
            "vocab_size",
            "d_model",
            "d_kv",
            "d_ff",
            "num_layers",
            "num_heads",
            "relative_attention_num_buckets",
            "relative_attention_max_distance",
            "layer_norm_epsilon",
            "feed_forward_proj",
            "pad_token_id",
            "eos_token_id",
        }
    ),
    harmless={
        **{name: why for name, why in _CLIP.harmless.items() if name != "pad_token_id"},
        "dropout_rate": "the encoder is frozen and never drawn anew",
        "classifier_dropout": "nothing is classified",
        "dense_act_fn": _FOLLOWS,
        "is_gated_act": _FOLLOWS,
        "num_decoder_layers": _DECODER,
        "decoder_start_token_id": _DECODER,
        "is_encoder_decoder": _DECODER,
        "scale_decoder_outputs": _DECODER,
        "output_past": _DECODER,
        "n_positions": "positions are relative; the length is given in each call",
        "task_specific_params": "a caption is given as it is, without a task before it",
    },
    limited={
        "model_type": Limited(allowed=("t5",), why="its encoder is a T5's"),
        "is_decoder": Limited(allowed=(False,), why="a caption is only encoded"),
        **{
            name: _CLIP.limited[name]
            for name in ("return_dict", "chunk_size_feed_forward", "problem_type")
        },
    },
)

T5_TOKENIZER_DECISIONS: Final = Decisions(
    honoured=TOKENIZER_DECISIONS.honoured | {"extra_ids"},
    harmless={
        **TOKENIZER_DECISIONS.harmless,
        "sp_model_kwargs": "tokenizer.json is read, not SentencePiece's file",
    },
    limited={
        **{
            name: limit
            for name, limit in TOKENIZER_DECISIONS.limited.items()
            if name not in ("add_prefix_space", "do_lower_case")
        },
        "add_prefix_space": Limited(allowed=(None, True), why="T5's words begin with a space"),
    },
)


def check_t5_tokenizer_folder(folder: Path, *, where: str) -> None:
    """As `check_tokenizer_folder` of CLIP's.

    Raises:
        SettingsError: there is no vocabulary, or `tokenizer_config.json` says what is not
            honoured.
    """
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "tokenizer.json" not in held:
        raise SettingsError(
            f"{where}: {folder} holds no vocabulary (it holds "
            f"{', '.join(sorted(held)) or 'nothing'}): every word would become the unknown token; "
            "allowed: tokenizer.json (SentencePiece's spiece.model alone is not read); copy it "
            "from the model's own repository"
        )
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    settings = read_object(path, where=where)
    check_settings(settings, T5_TOKENIZER_DECISIONS, where=f"{where}: {path}")
    found = settings.get("tokenizer_class")
    if found is not None and found not in _TOKENIZER_CLASSES:
        raise SettingsError(
            f"{where}: {path}: tokenizer_class is {found!r}; allowed: "
            f"{' or '.join(_TOKENIZER_CLASSES)}"
        )


def check_t5_vocabulary(tokenizer: Any, settings: Mapping[str, Any], *, where: str) -> None:
    """Hold a T5 tokenizer against the encoder that it is for.

    Raises:
        SettingsError: it has an id that the encoder has not, or pads or ends a text with another.
    """
    highest, size = max(tokenizer.get_vocab().values(), default=0), int(settings["vocab_size"])
    if highest >= size:  # T5's embeddings are filled up to a multiple of 128
        raise SettingsError(
            f"{where}: the tokenizer's highest id is {highest:,} and the text encoder's vocab_size "
            f"is {size:,}; the two are not of one model"
        )
    for name, default in (("pad_token_id", 0), ("eos_token_id", 1)):
        found, allowed = getattr(tokenizer, name), settings.get(name, default)
        if found is None or found != allowed:
            raise SettingsError(
                f"{where}: the tokenizer's {name} is {found}, and the text encoder's {allowed}; "
                "the two are not of one model"
            )
