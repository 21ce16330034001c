"""JSON that carries a digest of its own text, so that a reader finds any damage to it.

The seal is the object's last entry, over everything before it:

    {"step": "download", ..., "own_digest": "0f3a5c7791be24d8"}

What was written before there were seals has none, and is read as it is. Whatever stands where a
seal would, with a name of its length, is taken for one: damage to the name is damage as well.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from sd_core.plain_json import parse_json

SEAL: Final = "own_digest"
_DIGITS: Final = 16
_AT_THE_END: Final = re.compile(
    rb',\s+"[^"]{%d}"\s*:\s*"[^"]{%d}"\s*\}\s*\Z' % (len(SEAL), _DIGITS)
)
_MOST_BYTES: Final = 2 * (len(SEAL) + _DIGITS)


class SealError(ValueError):
    """A text is not the one that was sealed."""


def seal(text: str) -> bytes:
    """The text of a JSON object that has an entry, with its seal; on one line where it is."""
    body = text.rstrip().removesuffix("}").rstrip()
    gap = "\n" if "\n" in body else ""
    between = ",\n " if gap else ", "
    return f'{body}{between}"{SEAL}": "{_digest(body.encode())}"{gap}}}\n'.encode()


def seal_tree(tree: Mapping[str, Any]) -> bytes:
    """A mapping as sealed JSON, its names in order: the same mapping gives the same bytes."""
    return seal(json.dumps(tree, indent=1, sort_keys=True))


def unseal(content: bytes) -> Any:
    """The JSON without its seal.

    Raises:
        SealError: it is not what was sealed.
        ValueError: it is no JSON.
    """
    found = _find(content)
    if found is not None:
        body = content[: found.start()]
        if content != seal(body.decode() + "}"):
            raise SealError("damaged: its digest is not that of its text")
    tree = parse_json(content)
    if isinstance(tree, dict):
        tree.pop(SEAL, None)
    return tree


def is_sealed(content: bytes) -> bool:
    """Whether a text has a seal, whole or not: one made before there were seals has none."""
    return _find(content) is not None


def sha256_of_bytes(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def _find(content: bytes) -> re.Match[bytes] | None:
    return _AT_THE_END.search(content, max(0, len(content) - _MOST_BYTES))


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:_DIGITS]
