"""Load a job's YAML, apply `--set` overrides and report every fault of it at once."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every configuration section: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class ConfigError(Exception):
    """A configuration is wrong; the message lists every problem with what is allowed."""


def load_config(
    model: type[ConfigT], path: str | Path, *, overrides: Iterable[str] = ()
) -> ConfigT:
    """Read a YAML file into `model`, with `section.field=value` overrides on top.

    Raises:
        ConfigError: the file cannot be read, or any key or value is wrong (all are listed).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be a mapping, got {type(tree).__name__}")
    for override in overrides:
        _apply_override(tree, override)
    return validate_config(model, tree, where=str(path))


def validate_config(model: type[ConfigT], tree: Mapping[str, Any], *, where: str) -> ConfigT:
    """Validate a parsed mapping; raises `ConfigError` naming `where` and every problem."""
    try:
        # Through JSON, strict mode still accepts paths, tuples and integers for floats.
        return model.model_validate_json(_to_json(tree, where))
    except ValidationError as error:
        lines = [f"  - {_describe(model, problem)}" for problem in error.errors()]
        raise ConfigError(f"{where}: {len(lines)} problem(s)\n" + "\n".join(lines)) from None


def _to_json(tree: Mapping[str, Any], where: str) -> str:
    import json

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
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected section.field=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {name}: the value is not valid YAML: {error}") from error
    node: Any = tree
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
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


def _describe(model: type[BaseModel], problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(model, problem['loc'])}"
    if kind == "missing":
        return f"{where}: required, not set"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    found = problem["input"]
    shown = f"{type(found).__name__}" if isinstance(found, dict | list) else repr(found)
    return f"{where}: {message}, got {shown}"


def _suggestion(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    allowed = sorted(_fields_at(model, location[:-1]))
    if not allowed:
        return ""
    close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; allowed: {', '.join(allowed)}"


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> set[str]:
    models = [model]
    for part in location:
        found: list[type[BaseModel]] = []
        for candidate in models:
            if part in candidate.model_fields:
                found += _models_in(candidate.model_fields[part].annotation)
        models = found or models
    return {name for candidate in models for name in candidate.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
