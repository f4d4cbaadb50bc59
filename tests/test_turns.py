"""Several flows read as one: fair, one item of each at a time, errors kept apart."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest

from rtseg.threads import Flow, Turns


@contextmanager
def reading(*items, latest: bool = False) -> Iterator[Turns]:
    turns = Turns([Flow(each, latest=latest, name=f"{n}") for n, each in enumerate(items)])
    with ExitStack() as stack:
        for flow in turns.flows:
            stack.enter_context(flow)
        yield turns


def test_all_items_of_all_flows_come_in_their_own_order() -> None:
    with reading(range(100), range(1000, 1007), ()) as turns:
        seen: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for taken in turns.rounds(3):
            for index, item in taken:
                seen[index].append(item)
                turns.back(index)
    assert seen == {0: list(range(100)), 1: list(range(1000, 1007)), 2: []}


def test_flows_that_never_rest_are_served_equally() -> None:
    with reading(count(), count(), count()) as turns:
        served: Counter[int] = Counter()
        for _ in range(300):
            until_all_have_one(turns)
            ((index, _),) = turns.take(1, 5)
            served[index] += 1
            turns.back(index)
    assert served == {0: 100, 1: 100, 2: 100}


def until_all_have_one(turns: Turns) -> None:
    with turns._changed:
        assert turns._changed.wait_for(lambda: all(flow._buffer for flow in turns.flows), 5)


def test_a_round_holds_one_item_of_each_flow_that_has_one_and_waits_for_no_other() -> None:
    gate = threading.Event()

    def late() -> Iterator[str]:
        gate.wait(10)
        yield "late"

    with reading("ab", late(), "xy") as turns:
        with turns._changed:
            ready = (turns.flows[0], turns.flows[2])
            assert turns._changed.wait_for(lambda: all(flow._buffer for flow in ready), 5)
        assert turns.take(3, 5) == [(0, "a"), (2, "x")]
        gate.set()
        assert turns.take(3, 5) == [(1, "late")]


def test_a_flow_whose_item_is_out_is_passed_over_until_it_is_back() -> None:
    with reading("abc") as turns:
        assert turns.take(1, 5) == [(0, "a")]
        assert turns.take(1, 0.01) == []
        turns.back(0)
        assert turns.take(1, 5) == [(0, "b")]


def test_one_can_wait_until_items_are_back_but_not_for_ever() -> None:
    with reading("ab", "cd") as turns:
        assert turns.take(1, 5) == [(0, "a")]
        turns.wait_back([0, 1], 0.01)
        assert turns._out == {0}, "it went on without"

        def give_back() -> Iterator[None]:
            turns.back(0)
            yield None

        with Flow(give_back()):
            turns.wait_back([0, 1], 3600.0)
        assert turns._out == set()


def test_the_newest_item_waits_while_the_one_before_is_out() -> None:
    through = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert out.wait(5)
        yield from range(1, 50)
        through.set()

    out = threading.Event()
    with reading(items(), latest=True) as turns:
        assert turns.take(1, 5) == [(0, 0)]
        out.set()
        assert through.wait(5)
        turns.back(0)
        assert turns.take(1, 5) == [(0, 49)]
    assert turns.flows[0].replaced == 48


def test_two_readers_share_the_work_and_lose_nothing() -> None:
    with reading(range(200), range(200)) as turns:

        def work() -> Iterator[tuple[int, int]]:
            for ((index, item),) in turns.rounds(1):
                yield index, item
                turns.back(index)

        with reading(work(), work()) as workers:
            seen = []
            for ((worker, result),) in workers.rounds(1):
                seen.append(result)
                workers.back(worker)
    assert sorted(seen) == sorted((index, item) for index in (0, 1) for item in range(200))


def test_one_that_fails_keeps_its_error_and_the_others_go_on() -> None:
    error = OSError("cable")

    def failing() -> Iterator[int]:
        yield 1
        raise error

    with reading(failing(), range(50)) as turns:
        seen = []
        for ((index, item),) in turns.rounds(1):
            seen.append((index, item))
            turns.back(index)
        assert turns.flows[0].over
        assert turns.flows[0].error is error
        assert turns.flows[1].error is None
    assert sorted(seen) == [(0, 1), *((1, n) for n in range(50))]


def test_stopping_ends_a_reader_that_waits() -> None:
    gate = threading.Event()

    def nothing() -> Iterator[int]:
        gate.wait(10)
        yield from ()

    with reading(nothing()) as turns:
        with Flow(turns.rounds(1), interrupt=turns.stop) as reader:
            reader.stop()
            assert list(reader) == []
        assert not reader.hung
        gate.set()


@pytest.mark.parametrize("most", [1, 3])
def test_nothing_within_the_time_is_an_empty_round(most) -> None:
    gate = threading.Event()

    def nothing() -> Iterator[int]:
        gate.wait(10)
        yield from ()

    with reading(nothing()) as turns:
        assert turns.take(most, 0.01) == []
        assert not turns.over
        gate.set()
        assert turns.take(most, 5) == []
        assert turns.over
