"""Load a job's YAML, apply `--set` overrides and report every fault of it at once."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from pipelines.redact import redact_config
from sd_core.errors import EnvironmentFault, InputError, is_environment
from sd_core.home import expand_home
from sd_core.model.config import ModelConfig
from sd_core.plain_yaml import MAX_DEPTH, YamlError, parse_yaml
from sd_core.redact import CREDENTIALS_TOLD, REDACTED, names_credentials

ConfigT = TypeVar("ConfigT", bound="Config")
StorageOptions = dict[str, str | int | float | bool | dict[str, str] | None]
"""Of an fsspec file system, as YAML has them."""


class Config(ModelConfig):
    """Base of every configuration section of a job."""


class Forms:
    """Marks a field whose value is one of the sections of a table; which one, its keys say.

    Args:
        table: Key to section; looked up when a value is read, so that it may grow.
        what: Name of such a value, for messages.
        weakest: A key that others have too; it counts where none of theirs is there.
    """

    def __init__(
        self, table: Mapping[str, type[Config]], *, what: str, weakest: str | None = None
    ) -> None:
        self._table, self._what, self._weakest = table, what, weakest

    def models(self) -> list[type[BaseModel]]:
        """The sections of the table."""
        return list(self._table.values())

    def read(self, value: Any) -> Any:
        """The section that the keys of a mapping say; other values as they are."""
        if not isinstance(value, Mapping):
            return value
        found = [key for key in self._table if key in value]
        found.sort(key=lambda key: key == self._weakest)
        if not found:
            keys = ", ".join(self._table)
            raise PydanticCustomError("form", f"{self._what} has one of the keys {keys}")
        return self._table[found[0]].model_validate_json(json.dumps(value))

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))


class ConfigError(InputError):
    """A configuration is wrong; the message lists every problem with what is allowed."""


class UnreachableError(EnvironmentFault, ConfigError):
    """What a configuration names lies on a disk or store that does not answer now."""


def unreadable(error: Exception, message: str) -> ConfigError:
    """The error for what cannot be read: the user's fault, or the environment's.

    Raise it `from None`: a store's own error may show credentials.
    """
    return (UnreachableError if is_environment(error) else ConfigError)(message)


def load_config(
    model: type[ConfigT], path: str | Path, *, overrides: Iterable[str] = ()
) -> ConfigT:
    """Read a YAML file into `model`, with `section.field=value` overrides on top.

    Raises:
        ConfigError: the file cannot be read, or any key or value is wrong (all are listed).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        tree = parse_yaml(text)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error  # not the path, as another has made it
        raise ConfigError(f"{path}: cannot be read: {told}") from error
    except YamlError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be a mapping, got {type(tree).__name__}")
    for override in overrides:
        _apply_override(tree, override)
    return validate_config(model, tree, where=str(path))


def validate_config(model: type[ConfigT], tree: Mapping[str, Any], *, where: str) -> ConfigT:
    """Validate a parsed mapping, in which `~/` stands for the user's own folder; raises
    `ConfigError` naming `where` and every problem."""
    _to_json(tree, where)  # which holds for what follows
    tree = _at_home(tree)
    text = _to_json(tree, where)
    for name, value in _texts(tree, ""):
        if names_credentials(value):
            raise ConfigError(f"{where}: {name} {value}: {CREDENTIALS_TOLD}")
    try:
        # Through JSON, strict mode still accepts paths, tuples and integers for floats.
        return model.model_validate_json(text)
    except ValidationError as error:
        found = _describe_all(model, json.loads(text), error)
    lines = [f"  - {line}" for line in found]
    raise ConfigError(f"{where}: {len(lines)} problem(s)\n" + "\n".join(lines))


def _texts(node: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every text of a tree, and where it stands."""
    if isinstance(node, str):
        yield name, node
    parts: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, Mapping) else ()
    for key, part in enumerate(node) if isinstance(node, list) else parts:
        yield from _texts(part, f"{name}.{key}".lstrip("."))


def _at_home(node: Any, *, are_texts: bool = False) -> Any:
    """The tree with `~/` at a text's start expanded, but in lists of prompts."""
    if isinstance(node, Mapping):
        return {name: _at_home(part, are_texts=name == "prompts") for name, part in node.items()}
    if isinstance(node, list):
        return [part if are_texts and isinstance(part, str) else _at_home(part) for part in node]
    return expand_home(node) if isinstance(node, str) and node.startswith("~/") else node


def _to_json(tree: Mapping[str, Any], where: str) -> str:
    try:
        return json.dumps(tree, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: holds a value that is not plain text, number, list or mapping: {error}. "
            "Put dates and the like in quotes."
        ) from error


def _apply_override(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys) or len(keys) > MAX_DEPTH:
        raise ConfigError(f"--set {override}: expected section.field=value")
    try:
        value = parse_yaml(text)
    except YamlError as error:
        raise ConfigError(f"--set {name}: not YAML: {error}") from error
    node: Any = tree
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdecimal() or int(key) >= len(node):
                raise ConfigError(
                    f"--set {name}: {'.'.join(keys[:depth])} is a list of {len(node)}; "
                    f"{key!r} is not one of its indices"
                )
            slot: Any = int(key)
        else:
            slot = key
        if last:
            node[slot] = value
            return
        child = node[slot] if isinstance(node, list) else node.get(slot)
        if child is None:
            child = node[slot] = {}
        if not isinstance(child, dict | list):
            raise ConfigError(
                f"--set {name}: {'.'.join(keys[: depth + 1])} is a value, not a section"
            )
        node = child


def _describe_all(model: type[BaseModel], tree: Any, error: ValidationError) -> list[str]:
    """One line for each place; where several types are allowed, pydantic gives each its error."""
    lines: dict[str, str] = {}
    messages: dict[str, list[str]] = {}
    for problem in error.errors():
        path = _path_of(tree, problem)
        where = ".".join(path) or "(top level)"
        if problem["type"] == "extra_forbidden":
            lines[where] = f"{where}: unknown key{_suggestion(model, path)}"
        elif problem["type"] == "missing":
            lines[where] = f"{where}: required, not set"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            before = messages.setdefault(where, [])
            before.append(message.removeprefix("input should be ") if before else message)
            lines[where] = f"{where}: {' or '.join(before)}, got {_show(problem['input'], path)}"
    return list(lines.values())


def _path_of(tree: Any, problem: ErrorDetails) -> tuple[str, ...]:
    """The keys of a problem's place; what pydantic adds to tell types apart is left out."""
    path = []
    for part in problem["loc"]:
        in_list = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if in_list or (isinstance(tree, dict) and part in tree):
            tree = tree[part]
            path.append(str(part))
    if problem["type"] == "missing":
        path.append(str(problem["loc"][-1]))
    return tuple(path)


def _show(found: Any, path: tuple[str, ...]) -> str:
    if any(redact_config({name: "value"})[name] == REDACTED for name in path):
        return REDACTED
    return type(found).__name__ if isinstance(found, dict | list) else repr(found)


def _suggestion(model: type[BaseModel], location: tuple[str, ...]) -> str:
    allowed = sorted(_fields_at(model, location[:-1]))
    if not allowed:
        return ""
    close = difflib.get_close_matches(location[-1], allowed, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(allowed)}"


def _fields_at(model: type[BaseModel], location: tuple[str, ...]) -> set[str]:
    models = [model]
    for part in location:
        found: list[type[BaseModel]] = []
        for candidate in models:
            found += _sections_of(candidate).get(part, [])
        models = found or models
    return {name for candidate in models for name in _sections_of(candidate)}


def _sections_of(model: type[BaseModel]) -> dict[str, list[type[BaseModel]]]:
    """A section's keys with the sections that may stand under each; some stand in a table."""
    fields = model.model_fields.items()
    own = {field.alias or name: _models_in(field.annotation) for name, field in fields}
    further: Mapping[str, type[BaseModel]] = getattr(model, "further_keys", dict)()
    return own | {name: [section] for name, section in further.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, Forms):
        return annotation.models()
    return [model for part in get_args(annotation) for model in _models_in(part)]


def dump_yaml(tree: Any) -> str:
    """A tree as YAML, its keys in their own order."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
