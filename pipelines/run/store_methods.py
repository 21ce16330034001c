"""What is done around each method of a store: faults named, and another job's run left alone."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sd_core.faults import resource_named


class FencedStore(Protocol):
    """A folder that a job may have to itself."""

    @property
    def root(self) -> str: ...
    @property
    def fences(self) -> list[Callable[[], None]]:
        """Asked before anything is overwritten or removed; each raises where another job writes."""


StoreT = TypeVar("StoreT", bound=FencedStore)
Given = ParamSpec("Given")
ResultT = TypeVar("ResultT")
Method = Callable[Concatenate[StoreT, Given], ResultT]


def named(method: Method[StoreT, Given, ResultT]) -> Method[StoreT, Given, ResultT]:
    """What fails in it for want of something tells that it is the run's."""

    @wraps(method)
    def done(store: StoreT, /, *args: Given.args, **options: Given.kwargs) -> ResultT:
        with resource_named(store.root):
            return method(store, *args, **options)

    return done


def fenced(method: Method[StoreT, Given, ResultT]) -> Method[StoreT, Given, ResultT]:
    """As `named`, of one that overwrites or removes."""

    @wraps(method)
    def done(store: StoreT, /, *args: Given.args, **options: Given.kwargs) -> ResultT:
        with resource_named(store.root):
            for fence in tuple(store.fences):
                fence()
            return method(store, *args, **options)

    return done
