"""The options that stores are opened by, from a file of their own (`--storage-options`)."""

from pathlib import Path
from typing import Any

from fsspec.utils import get_protocol
from pydantic import TypeAdapter, ValidationError

from pipelines.config import Config, ConfigError, ConfigT, StorageOptions
from sd_core.plain_yaml import YamlError, parse_yaml

_OPTIONS = TypeAdapter(StorageOptions)


def load_storage_options(path: str | None) -> StorageOptions:
    """Read a JSON or YAML file with a mapping of options; none where there is no file.

    Raises:
        ConfigError: it is no such file. What it holds is never shown, it may be secret.
    """
    if path is None:
        return {}
    where = f"--storage-options {path}"
    try:
        tree = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: no text") from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None
    except YamlError as error:
        raise ConfigError(f"{where}: neither JSON nor YAML: {error}") from None
    try:
        return _OPTIONS.validate_python(tree, strict=True)
    except ValidationError as error:
        names = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
        told = ", ".join(sorted(names)) or f"a {type(tree).__name__}"
        raise ConfigError(
            f"{where}: {told}: give a mapping of options to text, numbers, true, false or null, or "
            "to mappings of texts"
        ) from None


def with_storage_options(config: ConfigT, options: StorageOptions) -> ConfigT:
    """The configuration, in which every store like that of its `output` is opened by the options,
    unless it names its own."""
    protocol = get_protocol(getattr(config, "output", ""))
    return _with_options(config, options, protocol) if options else config


def _with_options(config: ConfigT, options: StorageOptions, protocol: str) -> ConfigT:
    changed: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            changed[name] = _with_options(value, options, protocol)
        elif isinstance(value, list) and all(isinstance(each, Config) for each in value):
            changed[name] = [_with_options(each, options, protocol) for each in value]
    place = getattr(config, "path", None) or getattr(config, "output", None)
    if not getattr(config, "storage_options", True) and get_protocol(place or "") == protocol:
        changed["storage_options"] = options
    changed = {name: value for name, value in changed.items() if value is not getattr(config, name)}
    return config.model_copy(update=changed) if changed else config
