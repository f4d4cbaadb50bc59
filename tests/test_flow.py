"""The one threading mechanism: order, loss, errors, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from conftest import threads_left

from rtseg import system, threads
from rtseg.threads import Flow, Writer, parallel_map


def test_every_keeps_order_and_loses_nothing() -> None:
    with Flow(range(1000)) as flow:
        assert list(flow) == list(range(1000))
    assert (flow.produced, flow.delivered, flow.replaced) == (1000, 1000, 0)


def test_every_brakes_the_producer() -> None:
    begun = []

    def items() -> Iterator[int]:
        for i in range(100):
            begun.append(i)
            yield i

    with Flow(items(), capacity=2) as flow:
        first = next(iter(flow))
        assert first == 0
        # one delivered, two buffered, one waiting for room, at the most one more begun
        assert len(begun) <= 5


def test_latest_keeps_the_newest_and_counts_the_rest() -> None:
    gate = threading.Event()

    def items() -> Iterator[int]:
        yield from range(50)
        gate.set()

    with Flow(items(), latest=True) as flow:
        assert gate.wait(5)
        assert list(flow) == [49]
    assert flow.replaced == 49
    assert flow.produced == flow.delivered + flow.replaced


def test_an_error_is_the_same_object_and_comes_after_the_items_before_it() -> None:
    error = OSError("cable")

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    got = []
    with pytest.raises(OSError, match="cable") as caught, Flow(items()) as flow:  # noqa: PT012
        for item in flow:
            got.append(item)
    assert caught.value is error
    assert got == [1, 2]


def test_what_cannot_be_iterated_fails_before_a_thread_exists() -> None:
    with pytest.raises(TypeError):
        Flow(7)  # type: ignore[arg-type]


def test_poll_turns_once_with_nothing() -> None:
    gate = threading.Event()

    def items() -> Iterator[int]:
        gate.wait(5)
        yield 7

    with Flow(items()) as flow:
        turns = flow.poll(0.001)
        assert next(turns) is None
        gate.set()
        assert next(item for item in turns if item is not None) == 7


def test_leaving_early_stops_joins_and_closes_the_generator_in_its_own_thread() -> None:
    closed_by = []

    def items() -> Iterator[int]:
        try:
            i = 0
            while True:
                yield (i := i + 1)
        finally:
            closed_by.append(threading.current_thread().name)

    with Flow(items(), name="endless") as flow:
        assert next(iter(flow)) == 1
    assert closed_by == ["rtseg-endless"]
    assert not flow.hung


def test_stop_reaches_upstream_through_interrupt() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    first: Flow[int] = Flow(endless(), name="first")
    second: Flow[int] = Flow((i + 1 for i in first), name="second", interrupt=first.stop)
    with first, second:
        assert next(iter(second)) == 2
        second.stop()
        assert list(first) == []


def test_a_producer_that_never_returns_is_named_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "JOIN_SECONDS", 0.05)
    release = threading.Event()

    def stuck() -> Iterator[int]:
        release.wait(30)
        yield 1

    with Flow(stuck()) as flow:
        pass
    assert flow.hung
    release.set()


def test_interrupt_is_called_once() -> None:
    calls = []
    with Flow(range(3), interrupt=lambda: calls.append(1)) as flow:
        flow.stop()
        flow.stop()
    assert calls == [1]


def test_discarded_counts_what_nobody_read() -> None:
    gate = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        yield 2
        gate.set()

    with Flow(items(), capacity=2) as flow:
        assert gate.wait(5)
    assert flow.produced - flow.delivered - flow.replaced == 2


def test_a_thread_left_behind_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that every test ends with sees a thread that hangs, and only that."""
    monkeypatch.setattr(threads, "JOIN_SECONDS", 0.01)
    release = threading.Event()

    def stuck() -> Iterator[int]:
        release.wait(30)
        yield 1

    assert threads_left(0.0) == []
    with Flow(stuck(), name="stuck"):
        pass
    assert [thread.name for thread in threads_left(0.05)] == ["rtseg-stuck"]
    release.set()
    assert threads_left(5.0) == []


def test_spread_keeps_the_order_of_the_items() -> None:
    assert list(parallel_map(range(200), lambda i: i * i, 3)) == [i * i for i in range(200)]
    assert list(parallel_map([], lambda i: i, 2)) == []


def test_spread_works_in_as_many_threads_at_once_as_it_has_lanes() -> None:
    together = threading.Barrier(3, timeout=10)
    list(parallel_map(range(30), lambda _: together.wait(), 3))  # fewer would wait for ever


def test_spread_reads_one_item_more_than_it_has_lanes() -> None:
    read = []
    results = parallel_map((read.append(i) or i for i in range(100)), lambda i: i, 2)
    assert next(results) == 0
    assert read == [0, 1, 2]
    results.close()


@pytest.mark.parametrize("where", ["items", "work"])
def test_an_error_of_spread_comes_after_the_results_before_it(where: str) -> None:
    error = OSError("cable")

    def items() -> Iterator[int]:
        yield from range(7)
        if where == "items":
            raise error
        yield 7

    def work(item: int) -> int:
        if item == 7:
            raise error
        return item

    results = parallel_map(items(), work, 2)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(OSError, match="cable") as caught:
        next(results)
    assert caught.value is error


def test_leaving_spread_joins_its_threads() -> None:
    results = parallel_map(range(10**6), lambda i: i, 2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()
    assert threads_left(2.0) == []


def test_a_flow_that_is_held_rests_and_goes_on_with_what_is_new() -> None:
    made: list[int] = []
    asked = threading.Semaphore(0)

    def numbers() -> Iterator[int]:
        for number in range(100):
            assert asked.acquire(timeout=10)
            made.append(number)
            yield number

    def wait_for(count: int) -> None:
        until = time.monotonic() + 10
        while flow.produced < count and time.monotonic() < until:
            time.sleep(0.001)
        assert flow.produced == count

    with Flow(numbers(), latest=True, interrupt=asked.release) as flow:
        coming = flow.poll(5.0)
        asked.release()
        assert next(coming) == 0
        asked.release()
        wait_for(2)
        flow.hold(True)  # what lies there is stale, and so is what is on its way
        asked.release()
        asked.release()
        wait_for(3)
        assert made == [0, 1, 2], "the producer rests with what it has in hand"
        assert flow.take() is None
        assert flow.replaced == 2, "it is lost to the pause, not to what comes after"
        flow.hold(False)
        assert next(coming) == 3


def test_a_flow_that_is_held_can_be_stopped() -> None:
    with Flow(iter(range(100)), latest=True) as flow:
        flow.hold(True)
    assert not flow.hung


def test_a_line_works_in_order_in_a_thread_of_its_own() -> None:
    seen: list[tuple[int, str]] = []
    line = Writer(lambda n: seen.append((n, threading.current_thread().name)), name="test")
    assert not line.working
    for number in range(20):
        line.put(number)
    line.finish()
    line.finish()
    assert seen == [(number, "rtseg-test") for number in range(20)]
    assert not line.working


def test_a_line_without_items_has_no_thread() -> None:
    line = Writer(lambda n: None, name="test")
    line.finish()
    assert not line.working


def test_put_waits_only_where_the_line_is_full() -> None:
    goes_on, begun, handed_over = threading.Event(), threading.Event(), 0

    def work(number: int) -> None:
        begun.set()
        goes_on.wait()

    line = Writer(work, capacity=2, name="test")

    def fill() -> Iterator[int]:
        for number in range(4):
            line.put(number)
            yield number

    with Flow(fill(), capacity=9, name="fill") as filling:
        assert begun.wait(2)
        while handed_over < 3:  # one is worked on, two wait
            handed_over += filling.take() is not None
        time.sleep(0.05)
        assert filling.take() is None
        goes_on.set()
        assert list(filling) == [3]
    line.finish()


@pytest.mark.parametrize("raised_by", ["put", "finish"])
def test_an_error_in_a_line_is_raised_once_and_ends_the_work(raised_by: str) -> None:
    error, seen = ValueError("third"), []

    def work(number: int) -> None:
        if number == 2:
            raise error
        seen.append(number)

    line = Writer(work, capacity=9, name="test")
    for number in range(3):
        line.put(number)
    while line.working:
        time.sleep(0.001)
    with pytest.raises(ValueError, match="third") as caught:
        getattr(line, raised_by)(*([3] if raised_by == "put" else []))
    assert caught.value is error
    line.finish()
    assert seen == [0, 1]


def test_a_producer_in_step_begins_the_next_item_when_it_is_told_to() -> None:
    begun = []

    def numbers() -> Iterator[int]:
        for number in range(3):
            begun.append(number)
            yield number

    with Flow(numbers(), in_step=True) as flow:
        items = iter(flow)
        for number in range(3):
            assert next(items) == number
            time.sleep(0.01)
            assert begun == list(range(number + 1))
            flow.go_on()
        assert next(items, None) is None


def test_a_producer_in_step_can_be_stopped_and_held() -> None:
    with Flow(iter(range(10**6)), latest=True, in_step=True) as flow:
        assert next(iter(flow)) == 0
    assert not flow.hung
    with Flow(iter(range(10**6)), latest=True, in_step=True) as flow:
        assert next(iter(flow)) == 0
        flow.hold(True)
        flow.hold(False)
        assert next(iter(flow)) in (1, 2)
    assert not flow.hung


def test_cores_are_counted_without_hyper_threads_and_without_those_of_others(monkeypatch) -> None:
    import psutil

    for usable, physical, counted in ((8, 4, 4), (2, 4, 2), (8, None, 8)):
        monkeypatch.setattr(system, "usable_cores", lambda usable=usable: usable)
        monkeypatch.setattr(psutil, "cpu_count", lambda physical=physical, **_: physical)
        assert system.physical_cores() == counted
