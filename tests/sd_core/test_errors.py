"""One root of errors: each has its code, tells no secret, and is known again in another process."""

import errno
import pickle

import pytest

from sd_core.errors import (
    EnvironmentFault,
    ExitCode,
    FoundryError,
    InputError,
    causes_of,
    is_environment,
)
from sd_core.faults import environment_told

FULL = OSError(errno.ENOSPC, "No space left on device")


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


class Wrapped(Exception):
    """As Ray wraps what a worker raised (`cause`), and Ray Train (`_base_exc`)."""

    def __init__(self, **held: BaseException) -> None:
        super().__init__("wrapped")
        self.__dict__.update(held)


def test_each_general_kind_has_its_code() -> None:
    assert FoundryError("x").exit_code is ExitCode.FAILED
    assert InputError("x").exit_code is ExitCode.WRONG_INPUT
    assert EnvironmentFault("x").exit_code is ExitCode.ENVIRONMENT


def test_a_message_loses_its_secrets_wherever_it_goes() -> None:
    error = InputError("s3://me:hunter2@bucket/list: https://h/x?X-Amz-Signature=hunter2 is gone")
    for told in (str(error), repr(error), str(pickle.loads(pickle.dumps(error))), str(error.args)):
        assert "hunter2" not in told
        assert "s3://REDACTED@bucket/list: https://h/x?X-Amz-Signature=REDACTED" in told


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        Wrapped(cause=FULL),
        Wrapped(_base_exc=FULL),
        Wrapped(cause=caused(InputError("x"), FULL)),
        caused(FoundryError("x"), Wrapped(cause=caused(ValueError("y"), ConnectionError("z")))),
    ],
    ids=repr,
)
def test_the_environment_is_found_through_what_wraps_it(error: Exception) -> None:
    assert is_environment(error)


@pytest.mark.parametrize(
    "error",
    [
        Wrapped(cause=ValueError("x")),
        Wrapped(cause=caused(InputError("x"), FileNotFoundError(errno.ENOENT, "nothing"))),
    ],
)
def test_another_wrapped_error_is_not_the_environments(error: Exception) -> None:
    assert not is_environment(error)


def test_what_was_only_handled_meanwhile_is_no_cause() -> None:
    error = ValueError("a bug of the handler")
    error.__context__ = FULL
    assert not is_environment(error)


def test_circles_of_causes_end() -> None:
    one, other = Wrapped(), ValueError("other")
    one.cause, other.__cause__ = other, one
    assert list(causes_of(one)) == [one, other]


def test_the_environments_fault_is_told_where_it_is_known_and_outlives_a_pickle() -> None:
    lost = pickle.loads(pickle.dumps(caused(FoundryError("shard 3 is cut off"), FULL)))
    assert not is_environment(lost)
    with pytest.raises(EnvironmentFault) as caught, environment_told():
        raise FoundryError("shard 3 is cut off") from FULL
    assert str(caught.value) == "shard 3 is cut off; make room in the disk or store"
    assert is_environment(pickle.loads(pickle.dumps(caught.value)))
    with pytest.raises(EnvironmentFault, match=r"^OSError: \[Errno 28\]"), environment_told():
        raise FULL


@pytest.mark.parametrize("error", [ValueError("x"), InputError("x"), EnvironmentFault("x")])
def test_everything_else_is_raised_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, environment_told():
        raise error
    assert caught.value is error
