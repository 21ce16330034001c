"""What happens to rows: sources, plan, ledger, steps, and the engine that runs them.

The names below are for code outside this project; each is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.run.reader import Run as Run
    from pipelines.run.reader import RunImage as RunImage
    from pipelines.run.reader import open_run as open_run

__all__ = ["Run", "RunImage", "open_run"]

if not TYPE_CHECKING:  # for whom any name would be there

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("pipelines.run.reader"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
