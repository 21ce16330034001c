"""What a rule is: keys of a configuration, the columns that it reads, the rows that break it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import PrivateAttr

from pipelines.config import Config
from pipelines.rules.columns import check_known

Breaks = npt.NDArray[np.int16]
"""One a row: 0 where the rule is kept, else the number of the outcome, from 1."""

Missing = Literal["drop", "keep"]
OpenOptions = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RuleOutcome:
    """What a dropped row says: `reason` of the closed list, and the user's `rule`, if named."""

    reason: str
    rule: str | None


class ReadyRule(Protocol):
    """A rule on single rows whose lists are read: what select and download ask."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads."""

    @property
    def outcomes(self) -> tuple[RuleOutcome, ...]:
        """Why it drops rows."""

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Raise `ConfigError` where it does not go with columns of these names and types."""

    def broken(self, rows: pa.Table) -> Breaks:
        """Which outcome each row meets."""


class Rule(Config):
    """A form that a rule can have; which one it is, its keys say (`RULES`). One that is no
    `RowRule` stands for others (`parts`), or weighs a run's rows against each other in select."""

    name: str | None = None
    """What the `rule` column says of rows that it dropped; by default the rule itself."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads."""
        raise NotImplementedError

    @property
    def needed(self) -> tuple[str, ...]:
        """Those of its columns that must be there."""
        return self.columns

    def parts(self) -> "tuple[Rule, ...]":
        """The rules that it stands for, in order."""
        return (self,)

    def identity(self) -> dict[str, Any]:
        """What of it decides verdicts, as plain JSON; what files hold is `files_digest`."""
        return self.model_dump(mode="json")

    def files_digest(self, *, where: str, storage_options: OpenOptions) -> str | None:
        """Changes with the entries of the files that it names; None where it names none."""
        return None


class RowRule(Rule):
    """A rule on single rows. A new one needs `columns` and `broken`, and a line in `RULES`."""

    _where: str = PrivateAttr(default="")

    @property
    def where(self) -> str:
        """The key that it is configured by, for messages."""
        return self._where

    @property
    def outcomes(self) -> tuple[RuleOutcome, ...]:
        """Why it drops rows; `broken` says which one by its number, from 1."""
        keys = self.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
        text = ", ".join(f"{key} {value}" for key, value in keys.items())
        return (RuleOutcome(reason="condition_not_met", rule=self.name or text),)

    def ready(self, *, where: str, storage_options: OpenOptions) -> ReadyRule:
        """Itself, with its lists read; raises `ConfigError` where one cannot be."""
        return self.at(where)

    def at(self, where: str) -> Self:
        """A copy that knows the key that it is configured by."""
        copy = self.model_copy()
        copy._where = where
        return copy

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Raise `ConfigError` where it does not go with columns of these names and types."""
        for name in self.needed:
            check_known(name, types, where=self.where)

    def broken(self, rows: pa.Table) -> Breaks:
        """Which outcome each row meets."""
        raise NotImplementedError
