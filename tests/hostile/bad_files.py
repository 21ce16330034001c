"""Lists, archives and files of models that are broken, hostile or of another kind; by a seed."""

import io
import json
import pickle
import random
import struct
import tarfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.contracts.source_cases import picture

Dice = random.Random


def damaged(content: bytes, dice: Dice) -> bytes:
    """One change of a file: a flipped bit, a cut, zeros, a doubled part, nothing left."""
    if not content:
        return b"\0"
    at = dice.randrange(len(content))
    match dice.randrange(6):
        case 0 | 1:
            flipped = content[at] ^ (1 << dice.randrange(8))
            return content[:at] + bytes((flipped,)) + content[at + 1 :]
        case 2:
            return content[:at]
        case 3:
            return content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :]
        case 4:
            return content[:at] + content[max(0, at - 100) :]
        case _:
            return b""


def parquet(dice: Dice, urls: list[str]) -> bytes:
    """A list in Parquet: odd types, odd values, odd names, perhaps damaged."""
    texts: list[Any] = [f"a picture {number}" for number in range(len(urls))]
    columns: list[tuple[str, pa.Array]] = [
        (dice.choice(_URL_NAMES), dice.choice(_URL_FORMS)(urls)),
        (dice.choice(("TEXT", "caption", "TEXT", "Text ")), dice.choice(_TEXT_FORMS)(texts, dice)),
    ]
    for number in range(dice.randrange(4)):
        columns.append((dice.choice((*_ODD_NAMES, f"c{number}")), _odd_column(dice, len(urls))))
    if dice.random() < 0.1:
        columns.append(columns[0])
    table = pa.Table.from_arrays([c for _, c in columns], names=[n for n, _ in columns])
    if dice.random() < 0.1:
        table = table.slice(0, 0)
    sink = io.BytesIO()
    options = {
        "compression": dice.choice(("none", "snappy", "zstd", "gzip")),
        "row_group_size": dice.choice((1, 3, 100)),
        "data_page_version": dice.choice(("1.0", "2.0")),
        "use_dictionary": dice.random() < 0.5,
    }
    pq.write_table(table, sink, **options)
    content = sink.getvalue()
    return damaged(content, dice) if dice.random() < 0.4 else content


_URL_NAMES = ("URL", "url", "URL", "image_url", "Url", "URL ", "links")
_URL_FORMS: tuple[Callable[[list[str]], pa.Array], ...] = (
    lambda urls: pa.array(urls),
    lambda urls: pa.array(urls),
    lambda urls: pa.array(urls, pa.large_string()),
    lambda urls: pa.array([url.encode() for url in urls], pa.binary()),
    lambda urls: pa.array(urls).dictionary_encode(),
    lambda urls: pa.array([None, *urls[1:]]),
    lambda urls: pa.array([f"{urls[0]}\n", "\0", "x" * 20_000, *urls[3:]]),
    lambda urls: pa.array(range(len(urls))),
    lambda urls: pa.array([[url] for url in urls]),
    lambda urls: pa.nulls(len(urls)),
)
_TEXT_FORMS: tuple[Callable[[list[Any], Dice], pa.Array], ...] = (
    lambda texts, dice: pa.array(texts),
    lambda texts, dice: pa.array([None, *texts[1:]]),
    lambda texts, dice: pa.array(["c" * dice.choice((10_000, 300_000)), *texts[1:]]),
    lambda texts, dice: pa.array(["\0\x1b[2J\u202e\ufeff\U0001f3fb", *texts[1:]]),
    lambda texts, dice: pa.array([b"\xff\xfe", *(text.encode() for text in texts[1:])]),
    lambda texts, dice: pa.array([1.5] * len(texts)),
    lambda texts, dice: pa.array([{"text": text} for text in texts]),
)
_ODD_NAMES = ("", "key", "row", "kept", "source_x", "WIDTH", "hash", "a" * 300, "é\n", "__index__")


def _odd_column(dice: Dice, count: int) -> pa.Array:
    values: list[Any] = [
        [float("nan")] * count,
        [Decimal("1e30")] * count,
        [datetime(1, 1, 1, tzinfo=UTC)] * count,
        [date(9999, 12, 31)] * count,
        [[1, None, 3]] * count,
        [{"a": {"b": [1]}}] * count,
        [b"\xff" * 40] * count,
        [None] * count,
        [2**62, *range(1, count)],
    ]
    return pa.array(dice.choice(values))


def tar(dice: Dice) -> bytes:
    """An archive of samples with members that a reader must not follow, perhaps damaged."""
    sink = io.BytesIO()
    with tarfile.open(
        fileobj=sink, mode=dice.choice(("w", "w", "w:gz")), format=dice.randrange(3)
    ) as archive:
        for number in range(4):
            _add(archive, f"{number:03d}.jpg", picture(20 * number))
            _add(archive, f"{number:03d}.txt", f"caption {number}".encode())
            if dice.random() < 0.5:
                _odd_member(archive, dice, number)
    content = sink.getvalue()
    return damaged(content, dice) if dice.random() < 0.5 else content


def _add(archive: tarfile.TarFile, name: str, content: bytes, **fields: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


def _odd_member(archive: tarfile.TarFile, dice: Dice, number: int) -> None:
    names = (
        "../../x.jpg",
        "/etc/x.jpg",
        "a\nb.jpg",
        "é.jpg",
        ".jpg",
        "x.",
        "x",
        "CON.jpg",
        "x.jpg.jpg",
        "a/../b.jpg",
    )
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    match dice.randrange(6):
        case 0:
            _add(archive, dice.choice(names), picture(90))
        case 1:
            _add(archive, f"odd{number}.jpg", b"", type=dice.choice(kinds), linkname="/etc/passwd")
        case 2:
            _add(
                archive,
                f"{number:03d}.json",
                dice.choice((b"[" * 5000, b"{", b"1", b'{"caption": 1}')),
            )
        case 3:
            _add(archive, f"{number:03d}.pyd", pickle.dumps({"x": 1}))
        case 4:
            _add(archive, f"{number:03d}.txt", b"again")
        case _:
            _add(archive, f"big{number}.txt", b"t" * 200_000, pax_headers={"comment": "p" * 5000})


class Runs:
    """A pickle that leaves a file where it is loaded."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._canary,))


def weights(dice: Dice, content: bytes, canary: Path) -> bytes:
    """A file of weights, damaged or of another kind."""
    (size,) = struct.unpack("<Q", content[:8]) if len(content) > 8 else (0,)
    header = content[8 : 8 + min(size, 1 << 20)]
    kinds: list[Callable[[], bytes]] = [
        lambda: damaged(content, dice),
        lambda: damaged(content, dice),
        lambda: pickle.dumps(Runs(canary)),
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        lambda: struct.pack("<Q", 1 << 62) + content[8:],
        lambda: content.replace(b"F32", dice.choice((b"I64", b"F16", b"XXX")), 1),
        lambda: (
            struct.pack("<Q", len(header)) + header.replace(b"[", b"]", 1) + content[8 + size :]
        ),
        lambda: json.dumps({"__metadata__": {}}).encode(),
        lambda: b"[" * 100_000,
        lambda: content + b"\0" * 7,
        lambda: b"PK\x03\x04" + content[4:],
    ]
    return dice.choice(kinds)()


def entries(dice: Dice) -> tuple[str, bytes]:
    """A list of keys for a takedown: the file's suffix and its content."""
    lines = [
        b"0" * 16,
        b"",
        b"\xff\xfe",
        b"\0",
        b"x" * 100_000,
        b"# no",
        b"../x",
        b"key",
        b"0" * 16 + b"\r",
    ]
    text = b"\n".join(dice.choice(lines) for _ in range(dice.randrange(6)))
    table = io.BytesIO()
    pq.write_table(pa.table({"k": dice.choice(([1, 2], ["a", None], [["a"]], []))}), table)
    kinds = (
        (".txt", text),
        (".txt", b"\xef\xbb\xbf" + text),
        (".parquet", table.getvalue()),
        (".parquet", text),
        (".gz", text),
        ("", text),
    )
    return dice.choice(kinds)
