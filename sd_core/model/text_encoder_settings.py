"""Which keys of a text encoder's and a tokenizer's files are honoured; see `settings_check`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sd_core.model.settings_check import Decisions, Limited, SettingsError, check_settings
from sd_core.model.weight_files import read_object

_FROZEN: Final = "the encoder is frozen and never drawn anew"
_NOTE: Final = "a note of the library that wrote it"
_NOT_TEXT: Final = "of other kinds of models"
LEGACY_EOS: Final = 2
"""What older files say of EOS; transformers then takes the highest id of a text for it."""

TEXT_ENCODER_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            "architectures",
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "projection_dim",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "hidden_act",
            "layer_norm_eps",
            "eos_token_id",
        }
    ),
    harmless={
        "attention_dropout": _FROZEN,
        "dropout": _FROZEN,
        "initializer_range": _FROZEN,
        "initializer_factor": _FROZEN,
        "gradient_checkpointing": _FROZEN,
        "bos_token_id": "the tokenizer's own counts",
        "pad_token_id": "the tokenizer's own counts",
        "transformers_version": _NOTE,
        "dtype": "weights are read in float32 whatever they are stored in",
        "torch_dtype": "weights are read in float32 whatever they are stored in",
        "use_cache": _NOT_TEXT,
        "id2label": _NOT_TEXT,
        "label2id": _NOT_TEXT,
        "tie_word_embeddings": _NOT_TEXT,
        "output_attentions": "asked for in each call",
        "output_hidden_states": "asked for in each call",
        "torchscript": "asked for in each call",
    },
    limited={
        "model_type": Limited(
            allowed=("clip_text_model",), why="only CLIP's text models are text encoders here"
        ),
        "return_dict": Limited(allowed=(True,), why="results are taken by name"),
        "chunk_size_feed_forward": Limited(allowed=(0,), why="layers run whole"),
        "is_encoder_decoder": Limited(allowed=(False,), why="a CLIP text model only encodes"),
        "problem_type": Limited(allowed=(None,), why="nothing is classified"),
    },
)

_SPECIAL: Final = "added to the vocabulary, which is held against the encoder's"
TOKENIZER_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            "bos_token",
            "eos_token",
            "pad_token",
            "unk_token",
            "model_max_length",
            "added_tokens_decoder",
            "tokenizer_class",
        }
    ),
    harmless={
        "additional_special_tokens": _SPECIAL,
        "extra_special_tokens": _SPECIAL,
        "auto_map": "code of a repository is never run",
        "backend": _NOTE,
        "is_local": _NOTE,
        "local_files_only": _NOTE,
        "name_or_path": _NOTE,
        "special_tokens_map_file": _NOTE,
        "tokenizer_file": _NOTE,
        "processor_class": _NOTE,
        "device_map": _NOTE,
        "use_fast": _NOTE,
        "legacy": _NOT_TEXT,
        "clean_up_tokenization_spaces": "of turning ids into text, which is not done",
        "errors": "of turning ids into text, which is not done",
        "model_input_names": "the ids are taken by name",
        "return_attention_mask": "the ids are taken by name",
        "chat_template": "captions are no conversations",
        "add_bos_token": "CLIP's tokenizer always begins with BOS",
        "max_len": "the former name of model_max_length, and always given beside it",
        "max_length": "the length is given in each call",
        "truncation": "texts are cut in each call",
        "padding": "texts are padded in each call",
        "stride": "of texts that are cut into several rows, which is not done",
        "pad_to_multiple_of": "texts are padded to one length",
    },
    limited={
        "add_prefix_space": Limited(
            allowed=(False,), why="CLIP's tokenizer has no such form in this transformers"
        ),
        "do_lower_case": Limited(allowed=(True,), why="CLIP's tokenizer always lowers the case"),
        "padding_side": Limited(allowed=("right",), why="texts are padded behind"),
        "truncation_side": Limited(allowed=("right",), why="texts are cut behind"),
        "truncation_strategy": Limited(allowed=("longest_first",), why="texts are cut behind"),
        "pad_token_type_id": Limited(allowed=(0,), why="a text has one segment"),
        "split_special_tokens": Limited(allowed=(False,), why="special tokens stay whole"),
    },
)
_TOKENIZER_CLASSES: Final = ("CLIPTokenizer", "CLIPTokenizerFast")


def check_text_encoder_settings(settings: Mapping[str, Any], *, where: str) -> None:
    """Raises `SettingsError` where a CLIP text model's settings say what is not honoured."""
    check_settings(settings, TEXT_ENCODER_DECISIONS, where=where)


def check_tokenizer_folder(folder: Path, *, where: str) -> None:
    """Hold a tokenizer's files against what is honoured, before they are loaded.

    Raises:
        SettingsError: there is no vocabulary (transformers would take every word for the unknown
            token), or its `tokenizer_config.json` says what is not honoured.
    """
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "tokenizer.json" not in held and not {"vocab.json", "merges.txt"} <= held:
        raise SettingsError(
            f"{where}: {folder} holds no vocabulary (it holds "
            f"{', '.join(sorted(held)) or 'nothing'}): every word would become the unknown token; "
            "allowed: tokenizer.json, or vocab.json with merges.txt; copy them from the model's "
            "own repository"
        )
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    settings = read_object(path, where=where)
    check_settings(settings, TOKENIZER_DECISIONS, where=f"{where}: {path}")
    found = settings.get("tokenizer_class")
    if found is not None and found not in _TOKENIZER_CLASSES:
        raise SettingsError(
            f"{where}: {path}: tokenizer_class is {found!r}; allowed: "
            f"{' or '.join(_TOKENIZER_CLASSES)}"
        )


def check_vocabulary(tokenizer: Any, settings: Mapping[str, Any], *, where: str) -> None:
    """Hold a tokenizer against the text encoder that it is for.

    Args:
        tokenizer: transformers' CLIP tokenizer, loaded.
        settings: The text encoder's: `vocab_size` and `eos_token_id`, CLIP's where left out.
        where: The configuration's key and the folder.

    Raises:
        SettingsError: ids and embeddings do not match one to one, it has no token to pad with, or
            EOS is another for the encoder.
    """
    ids = set(tokenizer.get_vocab().values())
    size = int(settings.get("vocab_size", 49408))
    if ids != set(range(size)):
        raise SettingsError(
            f"{where}: the tokenizer has {len(ids):,} tokens (the highest id is "
            f"{max(ids, default=0):,}) and the text encoder's vocab_size is {size:,}; the two are "
            "not of one model: give the tokenizer that the encoder was trained with"
        )
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        if getattr(tokenizer, name, None) is None:
            raise SettingsError(
                f"{where}: the tokenizer's {name.removesuffix('_id')} is null; it must be one of "
                "its tokens: set it in tokenizer_config.json"
            )
    eos, found = int(tokenizer.eos_token_id), settings.get("eos_token_id", 49407)
    if found != eos and not (found == LEGACY_EOS and eos == max(ids)):
        raise SettingsError(
            f"{where}: the text encoder's eos_token_id is {found} and the tokenizer ends a text "
            f"with {eos}; allowed: {eos}, or the legacy {LEGACY_EOS} where EOS is the highest id "
            f"({max(ids)}): the pooled text would be taken at a wrong place"
        )


def token_length_of(tokenizer: Any, settings: Mapping[str, Any]) -> int:
    """How many tokens a text is padded to: as many as both the encoder and the tokenizer hold."""
    positions = int(settings.get("max_position_embeddings", 77))
    return min(positions, int(tokenizer.model_max_length))
