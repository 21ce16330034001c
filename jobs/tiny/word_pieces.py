"""The tiny tokenizer: a byte-level BPE vocabulary of 1,024 in transformers' CLIPTokenizer files.

Ids: the padding token is 0, then 256 bytes, 256 bytes that end a word, the merges, the start
token 1022 and the end token 1023. The end token is the highest id and occurs once in a row of
ids, so pooling by argmax (open_clip) and by end-of-text id (transformers) pick the same position.

`python -m jobs.tiny.word_pieces --output <folder>` learns it anew. The library breaks ties
between equally frequent pairs in no fixed order, so two runs differ in some ids: the files in
tiny/tokenizer belong to the CLIP trained with them, and train_clip reads them as they are.
"""

import argparse
import itertools
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from jobs.tiny.drawing import (
    BACKGROUNDS,
    COLORS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEMPLATES,
    Subject,
    caption_of,
)

VOCABULARY_SIZE = 1024
CONTEXT_LENGTH = 32
PADDING, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"

_COMMON_WORDS = """
the be to of and in that have it for not on with he as you do at this but his by from they we say
her she or an will my one all would there their what so up out if about who get which go me when
make can like time no just him know take people into year your good some could them see other than
then now look only come its over think also back after use two how our work first well way even
new want because any these give day most us is are was were has had been photo picture image
drawing painting photograph shot close view wide near far under above below behind between beside
front side corner middle edge sky sea sun moon snow rain tree flower grass mountain river lake
beach field forest garden park street road city town house building bridge door window wall floor
room kitchen table chair bed lamp book cup plate bottle bowl food fruit apple banana bread cake
pizza coffee tea water man woman boy girl child children baby person group crowd friend family dog
cat horse cow sheep bird fish bear lion tiger elephant mouse car bus train truck boat ship plane
bicycle motorcycle wheel ball game player sport running walking sitting standing holding wearing
eating drinking riding playing looking smiling hat shirt dress shoe coat bag phone computer screen
keyboard sign light dark bright old young big little tall short long round flat soft hard wet dry
hot cold warm clean dirty empty full open closed three four five six seven eight nine ten many few
brown silver gold grey cyan magenta beige maroon navy oval rectangle diamond heart line dot arrow
pattern stripe texture surface shadow glass wood stone metal paper plastic cloth leather brick
background foreground colorful beautiful simple modern vintage style art design color shape size
"""


def write_tokenizer(folder: Path) -> None:
    """Learn the merges from captions and common words; write the tokenizer's files to `folder`.

    Writes vocab.json, merges.txt and tokenizer_config.json.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merge_count = VOCABULARY_SIZE - 3 - 2 * len(alphabet)
    merges = _learn_merges(alphabet, merge_count)
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges)]
    vocabulary = {piece: place for place, piece in enumerate([PADDING, *pieces, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False, indent=0), encoding="utf-8"
    )
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": PADDING,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The CLIPTokenizer of `folder`; pad to CONTEXT_LENGTH with padding="max_length"."""
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def _learn_merges(alphabet: list[str], count: int) -> list[tuple[str, str]]:
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + 4 * count,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(_text(), trainer)
    model = json.loads(learner.to_str())["model"]
    known = {*alphabet, *(letter + "</w>" for letter in alphabet)}
    merges: list[tuple[str, str]] = []
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        if left + right not in known and len(merges) < count:
            known.add(left + right)
            merges.append((left, right))
    if len(merges) < count:
        raise ValueError(f"learnt {len(merges)} merges, need {count}; add common words")
    return merges


def _text() -> list[str]:
    choices = itertools.product(SHAPES, COLORS, BACKGROUNDS, SIZES, POSITIONS)
    captions = [
        caption_of(Subject(*choice), template=place % len(TEMPLATES)).replace(",", " ")
        for place, choice in enumerate(choices)
    ]
    return [*captions, *_COMMON_WORDS.split()]


def main() -> None:
    """Parse the command line, learn the merges and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    write_tokenizer(parser.parse_args().output)


if __name__ == "__main__":
    main()
