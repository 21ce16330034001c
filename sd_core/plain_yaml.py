"""YAML that somebody wrote, as plain mappings, lists, text and numbers."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from sd_core.errors import InputError

MAX_DEPTH = 50
"""Levels of a configuration."""
_MAX_NODES = 100_000
_BOOLEAN = "tag:yaml.org,2002:bool"
_FLOAT = "tag:yaml.org,2002:float"


class YamlError(InputError):
    """Text is not YAML; says at which line and column, without quoting it (it may hold secrets)."""


def parse_yaml(text: str) -> Any:
    """The text as plain mappings, lists, text and numbers; raises `YamlError`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise YamlError(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise YamlError(
            f"it holds a character that YAML does not allow ({type(error).__name__})"
        ) from None


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's booleans and floats, without silent repetitions, and with a
    bound on how deep a text nests and on what its references come to."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # of nodes, with all that is in them

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._refused(f"nested more than {MAX_DEPTH} levels deep")
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if id(node) not in self._sizes:
            value = node.value if isinstance(node.value, list) else []
            parts = [each for part in value for each in (part if type(part) is tuple else (part,))]
            # What is not known yet is a reference to what it is in.
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(p), _MAX_NODES) for p in parts)
            if self._sizes[id(node)] > _MAX_NODES:
                raise self._refused(f"its references come to more than {_MAX_NODES:,} values")
        return node

    def _refused(self, problem: str) -> yaml.MarkedYAMLError:
        return yaml.composer.ComposerError(None, None, problem, self.get_mark())

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOLEAN, re.compile(r"^(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)
