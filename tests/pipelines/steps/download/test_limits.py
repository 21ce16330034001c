"""Bytes in flight: never more than the budget, and every body gets its turn."""

import threading
import time

from pipelines.steps.download.limits import ByteBudget, Deadline


def test_large_body_is_not_passed_over_by_small_ones():
    budget, deadline = ByteBudget(100), Deadline(30)
    order = []

    def take(size):
        budget.reserve(size, deadline=deadline)
        order.append(size)

    budget.reserve(60, deadline=deadline)
    threads = []
    for size in (80, 20):
        threads.append(threading.Thread(target=take, args=(size,)))
        threads[-1].start()
        time.sleep(0.1)
    assert order == []  # 20 would fit, but 80 came first
    budget.release(60)
    for thread in threads:
        thread.join(timeout=10)
    assert sorted(order) == [20, 80]


def test_more_than_the_whole_budget_is_the_whole_budget():
    budget, deadline = ByteBudget(100), Deadline(30)
    assert budget.reserve(1000, deadline=deadline) == 100
    budget.release(100)
    assert budget.reserve(100, deadline=deadline) == 100
