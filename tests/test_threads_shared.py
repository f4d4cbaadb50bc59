"""Flows that are read in rounds, and work that threads share in fair turns or batches."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from rtseg.session.sharing import RoundRobin, Shared, Stopped
from rtseg.threads import Flow


@contextmanager
def reading(*items, **options) -> Iterator[RoundRobin]:
    reader: RoundRobin = RoundRobin()
    flows = [Flow(each, name=f"{n}", **options) for n, each in enumerate(items)]
    for number, flow in enumerate(flows):
        reader.add(number, flow)
    with ExitStack() as stack:
        for flow in flows:
            stack.enter_context(flow)
        yield reader


def everything(reader: RoundRobin) -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = []
    while taken := reader.take(5):
        found += taken
    return found


def test_all_items_of_all_flows_come_in_their_own_order() -> None:
    with reading(range(100), range(1000, 1007), ()) as reader:
        found = everything(reader)
    assert [item for number, item in found if number == 0] == list(range(100))
    assert [item for number, item in found if number == 1] == list(range(1000, 1007))


def test_a_round_has_one_item_of_each_flow_and_waits_for_no_other() -> None:
    gate = threading.Event()

    def late() -> Iterator[str]:
        gate.wait(10)
        yield "late"

    with reading("ab", late(), "xy") as reader:
        ready = [reader._flows[0], reader._flows[2]]
        with reader._changed:
            assert reader._changed.wait_for(lambda: all(flow._buffer for flow in ready), 5)
        assert reader.take(5) == [(0, "a"), (2, "x")]
        everything_else = reader.take(5)
        gate.set()
        everything_else += everything(reader)
    assert sorted(everything_else) == [(0, "b"), (1, "late"), (2, "y")]


def test_nothing_within_the_time_is_an_empty_round() -> None:
    gate = threading.Event()

    def nothing() -> Iterator[int]:
        gate.wait(10)
        yield from ()

    with reading(nothing()) as reader:
        assert reader.take(0.01) == []
        gate.set()
        assert reader.take(5) == []


def test_a_flow_that_fails_keeps_its_error_and_the_others_go_on() -> None:
    error = OSError("cable")

    def failing() -> Iterator[int]:
        yield 1
        raise error

    with reading(failing(), range(50)) as reader:
        found = everything(reader)
        assert reader._flows[0].error is error
        assert reader._flows[1].error is None
    assert sorted(found) == [(0, 1), *((1, n) for n in range(50))]


def test_a_flow_that_was_removed_is_read_no_longer() -> None:
    with reading("ab", "xy") as reader:
        reader.remove(0)
        assert [number for number, _ in everything(reader)] == [1, 1]


class Work:
    """Doubles numbers, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.inside = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, items: Sequence[int]) -> list[int]:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.batches.append(list(items))
        threading.Event().wait(0.001)
        with self._lock:
            self.inside -= 1
        return [2 * item for item in items]


def users(shared: Shared, count: int, calls: int) -> list[Flow]:
    """Threads that each give their numbers, one after another, and use each result at once."""

    def use(who: int) -> Iterator[int]:
        for call in range(calls):
            result = shared(who, 1000 * who + call)
            shared.finished(who)
            yield result
        shared.gone(who)

    return [Flow(use(who), name=f"user-{who}", capacity=calls) for who in range(count)]


def results(flows: list[Flow]) -> list[list[int]]:
    with ExitStack() as stack:
        for flow in flows:
            stack.enter_context(flow)
        return [list(flow) for flow in flows]


@pytest.mark.parametrize(("width", "lanes", "most"), [(1, 1, 1), (1, 2, 2), (4, 1, 1)])
def test_everyone_gets_the_results_of_their_own_items(width: int, lanes: int, most: int) -> None:
    work = Work()
    shared: Shared[int, int] = Shared(work, width=width, lanes=lanes, linger_seconds=1.0)
    found = results(users(shared, 4, 30))
    assert found == [[2 * (1000 * who + call) for call in range(30)] for who in range(4)]
    assert work.most <= most
    assert max(map(len, work.batches)) <= width


def test_turns_are_fair() -> None:
    work = Work()
    results(users(Shared(work), 3, 40))
    served = Counter(batch[0] // 1000 for batch in work.batches[30:90])
    assert all(abs(count - 20) <= 4 for count in served.values()), served


@pytest.mark.slow
def test_whoever_waits_together_goes_together() -> None:
    work = Work()
    results(users(Shared(work, width=4, linger_seconds=5.0), 4, 40))
    sizes = [len(batch) for batch in work.batches]
    assert sorted(sizes)[len(sizes) // 2] == 4, sizes


def test_a_turn_may_pass_without_a_call_and_holds_up_nobody() -> None:
    work = Work()
    shared: Shared[int, int] = Shared(work, width=2, linger_seconds=0.01)

    def skipping() -> Iterator[int]:
        for _ in range(20):
            with shared.turn("skips"):
                yield 0

    with Flow(skipping(), name="skips", capacity=99) as flow:
        assert [shared("calls", n) for n in range(20)] == [2 * n for n in range(20)]
        assert list(flow) == [0] * 20


def test_an_error_reaches_everyone_in_the_batch() -> None:
    error = OSError("cable")

    def fail(items: Sequence[int]) -> list[int]:
        raise error

    shared: Shared[int, int] = Shared(fail, width=2)

    def use(who: int) -> Iterator[int]:
        yield shared(who, 0)

    flows = [Flow(use(who), name=f"user-{who}") for who in (0, 1)]
    with ExitStack() as stack:
        for flow in flows:
            stack.enter_context(flow)
        for flow in flows:
            with pytest.raises(OSError, match="cable") as raised:
                list(flow)
            assert raised.value is error


def test_stopping_ends_all_waiting() -> None:
    shared: Shared[int, int] = Shared(Work())

    def use() -> Iterator[int]:
        yield shared("waits", 0)

    with shared.turn("holds"), Flow(use(), name="waits", interrupt=shared.stop) as flow:
        while "waits" not in shared._waiting:
            threading.Event().wait(0.001)
        flow.stop()
    assert not flow.hung
    assert isinstance(flow.error, Stopped)
