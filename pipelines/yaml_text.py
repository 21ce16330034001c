"""YAML as people mean it: `off` is a word, `1e-4` a number, and no key is there twice."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from sd_core.errors import InputError

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
    """The safe loader with YAML 1.2's booleans and floats, and without silent repetitions."""

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
    _BOOLEAN, re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def dump_yaml(tree: Any) -> str:
    """A tree as YAML, its keys in their own order."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
