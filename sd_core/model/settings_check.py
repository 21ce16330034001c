"""What a model folder's configuration says is honoured, harmless, or an error; nothing is ignored.

Each key of a component's configuration stands in one of three lists. A key in none of them is
refused unless it is null, so that what another version of a library adds is never passed over.
"""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sd_core.model.weights import WeightsError

_ADVICE: Final = "name a model without it, or take the key out if the weights do not need it"


class SettingsError(WeightsError):
    """A model folder says something that is not honoured here."""


@dataclass(frozen=True, kw_only=True)
class Limited:
    """A key that may have these values alone, and why."""

    allowed: tuple[Any, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What is done with each key of a component's configuration.

    Attributes:
        honoured: Whatever the value, it means here what it means to the library.
        harmless: Whatever the value, it changes no result; with the reason.
        limited: Honoured with some values, among them the default; refused with any other.
    """

    honoured: frozenset[str]
    harmless: Mapping[str, str] = field(default_factory=dict)
    limited: Mapping[str, Limited] = field(default_factory=dict)

    @property
    def keys(self) -> frozenset[str]:
        """All keys that were decided about."""
        return self.honoured | self.harmless.keys() | self.limited.keys()


def check_settings(settings: Mapping[str, Any], decisions: Decisions, *, where: str) -> None:
    """Refuse what is not honoured; all faults in one error.

    Args:
        settings: A component's configuration; keys that begin with an underscore are the
            library's own notes.
        decisions: Of this component.
        where: The configuration's key and the file.

    Raises:
        SettingsError: names each key, what was found, what is allowed, and what to do.
    """
    faults = [
        fault
        for name, value in settings.items()
        if not name.startswith("_") and (fault := _fault(name, value, decisions))
    ]
    if faults:
        raise SettingsError("\n".join(f"{where}: {fault}" for fault in faults))


def is_allowed(value: Any, allowed: Collection[Any]) -> bool:
    """Whether a JSON value is among Python's; a list is like a tuple, and true is not 1."""
    return any(_plain(value) == _plain(one) for one in allowed)


def constructor_defaults(constructor: Any) -> dict[str, Any]:
    """A class's parameters that have a default."""
    parameters = inspect.signature(constructor.__init__).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not inspect.Parameter.empty
    }


def _fault(name: str, value: Any, decisions: Decisions) -> str | None:
    if name in decisions.honoured or name in decisions.harmless:
        return None
    limit = decisions.limited.get(name)
    if limit is None:
        if value is None:
            return None
        return f"{name} is {_shown(value)}, a key that is not known here; {_ADVICE}"
    if is_allowed(value, limit.allowed):
        return None
    allowed = " or ".join(_shown(one) for one in limit.allowed)
    return f"{name} is {_shown(value)}; allowed: {allowed} ({limit.why}); {_ADVICE}"


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(one) for one in value)
    return (type(value) is bool, value)


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
