"""A batch that is refused is split until the row is found; nobody else is charged."""

from collections.abc import Callable, Sequence

import pytest
from botocore.exceptions import ClientError

from pipelines.rows.failures import (
    Failures,
    Isolation,
    describe_error,
    failed_rows,
    is_of_everything,
)


def isolated(
    batches: Sequence[Sequence[int]], work: Callable[[Sequence[int]], list[int]]
) -> tuple[list[int], Failures]:
    failures: Failures = {}
    isolation = Isolation(work, key_of=str, failures=failures)
    results = [row for batch in batches for part in isolation.run(batch) for row in part]
    isolation.finish()
    return results, failures


def refusing(*bad: int) -> Callable[[Sequence[int]], list[int]]:
    def work(rows: Sequence[int]) -> list[int]:
        if wrong := [row for row in rows if row in bad]:
            raise ValueError(f"row {wrong[0]}")
        return list(rows)

    return work


@pytest.mark.parametrize("bad", [(), (0,), (7,), (2, 3, 11), (4, 5, 6, 7), tuple(range(1, 12))])
def test_the_others_go_through_in_order(bad: tuple[int, ...]) -> None:
    results, failures = isolated([range(4), range(4, 8), range(8, 12)], refusing(*bad))
    assert results == [row for row in range(12) if row not in bad]
    assert {key: str(error) for key, error in failures.items()} == {
        str(row): f"row {row}" for row in bad
    }


def test_a_first_batch_of_bad_rows_is_charged_once_others_go_through() -> None:
    results, failures = isolated([[0, 1], [2, 3]], refusing(0, 1))
    assert (results, sorted(failures)) == ([2, 3], ["0", "1"])


def test_what_fails_with_every_row_is_raised() -> None:
    with pytest.raises(ValueError, match="row 0"):
        isolated([[0, 1], [2]], refusing(0, 1, 2))
    with pytest.raises(ValueError, match="row 0"):
        isolated([[0]], refusing(0))


def test_where_a_row_known_to_be_good_goes_through_the_others_are_to_blame() -> None:
    failures: Failures = {}
    isolation = Isolation(refusing(0), key_of=str, failures=failures)
    assert isolation.run([0]) == []
    isolation.finish(known=5)
    assert list(failures) == ["0"]
    with pytest.raises(ValueError, match="row 0"):
        isolation.finish(known=0)
    with pytest.raises(ValueError, match="row 0"):
        isolation.finish()


def test_what_breaks_on_the_way_is_not_charged_to_the_rows_after_it() -> None:
    calls = []

    def breaks_down(rows: Sequence[int]) -> list[int]:
        calls.append(rows)
        if len(calls) > 1:
            raise RuntimeError("from now on everything fails")
        return list(rows)

    with pytest.raises(RuntimeError, match="everything fails"):
        isolated([[0, 1], [2, 3]], breaks_down)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ConnectionResetError("storage"),
        ClientError({"Error": {"Code": "SlowDown"}}, "PutObject"),
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_the_machines_errors_are_raised_as_they_are(error: Exception) -> None:
    def work(rows: Sequence[int]) -> list[int]:
        if 2 in rows:
            raise error
        return list(rows)

    assert is_of_everything(error)
    with pytest.raises(type(error)):
        isolated([[0, 1], [2, 3]], work)


def test_an_interrupt_ends_the_work() -> None:
    def work(rows: Sequence[int]) -> list[int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        isolated([[0, 1]], work)


def test_the_message_has_the_errors_kind_and_no_secret() -> None:
    error = ValueError("cannot read https://user:secret@host.example/a?token=abc\nmore")
    assert describe_error(error).startswith("ValueError: cannot read https://")
    assert "secret" not in describe_error(error)
    assert "more" not in describe_error(error)
    facts = [{"shard_id": 1, "row": n, "key": f"k{n}"} for n in range(3)]
    [row] = failed_rows(facts, {"k1": KeyError("x")})
    assert (row["row"], row["reason"], row["error_message"]) == (1, "row_failed", "KeyError: 'x'")
