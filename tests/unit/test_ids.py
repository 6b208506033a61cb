"""UUIDs of version 7: they sort by time, also when time stands still or steps back."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.ids import UuidSource, uuid7


def source(times_ms: list[int], random_bytes: Callable[[int], bytes] = os.urandom) -> UuidSource:
    clock = iter(times_ms)
    return UuidSource(lambda: next(clock), random_bytes)


def time_ms(value: uuid.UUID) -> int:
    return value.int >> 80


def test_our_uuid7_is_one_and_carries_the_time() -> None:
    before_ms = time.time_ns() // 1_000_000
    made = [uuid7() for _ in range(1000)]
    after_ms = time.time_ns() // 1_000_000
    assert made == sorted(set(made))
    assert {(value.version, value.variant) for value in made} == {(7, uuid.RFC_4122)}
    assert before_ms <= time_ms(made[0]) <= time_ms(made[-1]) <= after_ms + 1


@given(st.lists(st.integers(0, 2**48 - 2), min_size=2, max_size=40))
def test_they_grow_whatever_the_clock_does(times_ms: list[int]) -> None:
    make = source(times_ms)
    made = [make() for _ in times_ms]
    assert all(one < other for one, other in pairwise(made))
    assert all(value.version == 7 for value in made)
    assert [time_ms(value) for value in made] == [max(times_ms[: index + 1]) for index in range(len(times_ms))]


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_poor_randomness_breaks_neither_order_nor_layout(byte: bytes) -> None:
    make = source([5, 5, 5, 6, 4], lambda count: byte * count)
    made = [make() for _ in range(5)]
    assert made == sorted(set(made))
    assert {(value.version, value.variant) for value in made} == {(7, uuid.RFC_4122)}


def test_a_full_counter_borrows_from_the_next_millisecond() -> None:
    make = source([1000, 1000, 1000, 1001])
    first = make()
    make._sequence = (1 << 42) - 1
    overrun, after, same_ms = make(), make(), make()
    assert first < overrun < after < same_ms
    assert [time_ms(value) for value in (first, overrun, after, same_ms)] == [1000, 1001, 1001, 1001]


def test_sources_of_two_devices_do_not_meet() -> None:
    one, other = source([1000] * 500), source([1000] * 500)
    assert len({make() for _ in range(500) for make in (one, other)}) == 1000


def test_threads_share_one_source() -> None:
    make = UuidSource(lambda: 1000, os.urandom)
    made: list[list[uuid.UUID]] = [[] for _ in range(4)]

    def work(mine: list[uuid.UUID]) -> None:
        mine.extend(make() for _ in range(2000))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({value for mine in made for value in mine}) == 8000
    assert all(mine == sorted(mine) for mine in made)
