"""A clock that moves by hand, and the deterministic world around it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from localstore.testing.clock import ManualClock, environment


def test_time_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(1_000)
    assert (clock.now_ms(), clock.monotonic()) == (1_000, 0.0)
    clock.advance(2.5)
    assert (clock.now_ms(), clock.monotonic()) == (3_500, 2.5)


def test_ten_tenths_are_a_second() -> None:
    clock = ManualClock(0)
    for _ in range(10):
        clock.advance(0.1)
    assert (clock.now_ms(), clock.monotonic()) == (1_000, 1.0)


def test_a_step_of_the_wall_clock_leaves_the_monotonic_one_alone() -> None:
    clock = ManualClock(10_000)
    clock.advance(5)
    clock.set(2_000)
    assert (clock.now_ms(), clock.monotonic()) == (2_000, 5.0)
    clock.advance(1)
    assert (clock.now_ms(), clock.monotonic()) == (3_000, 6.0)


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="set"):
        ManualClock().advance(-1)


def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    clock = ManualClock()
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    async def story() -> None:
        tasks = [
            asyncio.ensure_future(sleeper(name, at)) for name, at in [("late", 3), ("early", 1), ("middle", 2), ("far", 9)]
        ]
        await asyncio.sleep(0)
        assert clock.next_wake() == 1
        clock.advance(0.5)
        await asyncio.sleep(0)
        assert woken == []
        clock.advance(2.5)
        await asyncio.wait(tasks[:3])
        assert woken == ["early", "middle", "late"]
        assert clock.next_wake() == 6
        tasks[3].cancel()
        await asyncio.wait(tasks)
        assert clock.next_wake() is None

    asyncio.run(story())


def test_who_is_woken_sleeps_no_longer_also_before_the_loop_gets_to_it() -> None:
    clock = ManualClock()

    async def story() -> None:
        tasks = [asyncio.ensure_future(clock.sleep(seconds)) for seconds in (1, 3)]
        await asyncio.sleep(0)
        clock.advance(1)
        assert clock.next_wake() == 2
        assert not clock.wait_for_sleepers(2, timeout=0)
        clock.advance(2)
        assert clock.next_wake() is None
        await asyncio.wait(tasks)

    asyncio.run(story())


def test_no_time_at_all_is_one_turn_of_the_loop() -> None:
    asyncio.run(asyncio.wait_for(ManualClock().sleep(0), 10))


def test_a_test_can_move_the_clock_while_a_loop_sleeps_in_another_thread() -> None:
    clock = ManualClock()
    loop_thread = threading.Thread(target=lambda: asyncio.run(clock.sleep(60)))
    loop_thread.start()
    assert clock.wait_for_sleepers()
    clock.advance(59)
    assert clock.next_wake() == 1
    clock.advance(1)
    loop_thread.join(10)
    assert not loop_thread.is_alive()
    assert not clock.wait_for_sleepers(timeout=0)


def test_the_same_seed_gives_the_same_world() -> None:
    clock = ManualClock()
    one, other, third = (environment(clock, seed) for seed in (7, 7, 8))
    assert [one.random(), one.random_bytes(8), one.new_device()] == [other.random(), other.random_bytes(8), other.new_device()]
    assert one.new_device() != third.new_device()
    clock.advance(1)
    assert one.now_ms() == clock.now_ms()
    assert one.monotonic() == 1.0
