"""The write lock: one at a time in the order of arrival, whatever threads, tasks and interruptions do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from localstore.errors import NestedWrite, StoreBusy
from localstore.store.lock import WriteLock
from tests.unit.session_kit import PATIENCE, eventually, handling, in_background, in_loop, in_thread, joined


@pytest.fixture
def lock() -> Iterator[WriteLock]:
    """A lock with all the time in the world, that nobody may have when the test is over."""
    lock = WriteLock(PATIENCE)
    yield lock
    assert len(lock) == 0


def queued(lock: WriteLock, count: int) -> None:
    """Wait until so many write or wait to."""
    eventually(lambda: len(lock) == count, f"{count} to be in the queue")


class EventLoop:
    """An event loop in a thread, whose tasks and callbacks a test starts one by one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = in_thread(self._run)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.call(lambda: self._loop.create_task(coroutine))

    def call(self, function: Callable[[], Any]) -> Any:
        """The result of a function, called in the loop's thread."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def joined(self, task: asyncio.Task[Any]) -> None:
        """Wait for its end, however it ends."""
        asyncio.run_coroutine_threadsafe(asyncio.wait({task}), self._loop).result(PATIENCE)

    def stop(self) -> None:
        """End it at once, with whatever tasks it has."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        joined(self._thread)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    yield loop
    with suppress(RuntimeError):
        loop.stop()


def write(lock: WriteLock, name: str, order: list[str]) -> None:
    with lock.held():
        order.append(name)


async def write_async(lock: WriteLock, name: str, order: list[str]) -> None:
    async with lock.held_async():
        order.append(name)


class TestOrder:
    def test_threads_are_served_in_the_order_of_their_arrival(self, lock: WriteLock) -> None:
        order: list[str] = []
        with lock.held():
            threads = []
            for number in range(10):
                threads.append(in_thread(lambda name=str(number): write(lock, name, order)))  # type: ignore[misc]
                queued(lock, number + 2)
        for thread in threads:
            joined(thread)
        assert order == [str(number) for number in range(10)]

    def test_so_are_tasks(self, lock: WriteLock) -> None:
        order: list[str] = []

        async def write_all() -> None:
            async with lock.held_async():
                tasks = [asyncio.create_task(write_async(lock, str(number), order)) for number in range(100)]
                await asyncio.sleep(0)
                assert len(lock) == 101
            await asyncio.gather(*tasks)

        in_loop(write_all())
        assert order == [str(number) for number in range(100)]

    def test_so_are_both_together(self, lock: WriteLock, loop: EventLoop) -> None:
        order: list[str] = []
        with lock.held():
            started: list[Any] = []
            for number in range(0, 10, 2):
                started.append(loop.start(write_async(lock, f"task {number}", order)))
                queued(lock, number + 2)
                started.append(in_thread(lambda name=f"thread {number + 1}": write(lock, name, order)))  # type: ignore[misc]
                queued(lock, number + 3)
        for each in started:
            joined(each) if isinstance(each, threading.Thread) else loop.joined(each)
        assert [int(name.split()[1]) for name in order] == list(range(10))

    def test_whoever_comes_back_at_once_waits_behind_those_who_came_before(self, lock: WriteLock) -> None:
        order: list[str] = []
        with lock.held():
            thread = in_thread(lambda: write(lock, "patient", order))
            queued(lock, 2)
        write(lock, "hasty", order)
        joined(thread)
        assert order == ["patient", "hasty"]

    def test_only_one_holds_it_at_a_time(self, lock: WriteLock) -> None:
        inside: list[int] = []
        most: list[int] = []

        def work() -> None:
            for number in range(200):
                with lock.held():
                    inside.append(number)
                    most.append(len(inside))
                    inside.pop()

        async def work_async() -> None:
            for number in range(200):
                async with lock.held_async():
                    inside.append(number)
                    await asyncio.sleep(0)
                    most.append(len(inside))
                    inside.pop()

        async def work_in_tasks() -> None:
            await asyncio.gather(*(work_async() for _ in range(4)))

        threads = [in_thread(work) for _ in range(4)]
        in_loop(work_in_tasks())
        for thread in threads:
            joined(thread)
        assert most == [1] * 1600

    def test_waiting_tasks_need_no_threads(self, lock: WriteLock) -> None:
        async def write_all() -> int:
            async with lock.held_async():
                tasks = [asyncio.create_task(write_async(lock, "", [])) for _ in range(50)]
                await asyncio.sleep(0)
                threads = threading.active_count()
            await asyncio.gather(*tasks)
            return threads

        before = threading.active_count()
        assert in_loop(write_all()) == before


class TestGivingUp:
    def test_a_thread_that_waited_too_long_leaves_the_queue(self) -> None:
        lock = WriteLock(0.01)
        order: list[str] = []
        with lock.held():
            error = in_background(lambda: write(lock, "late", order)).exception(PATIENCE)
            assert isinstance(error, StoreBusy)
            assert "0.01 s" in error.message
            assert "Nothing was written" in error.message
            assert "busy_timeout" in error.hint
            assert len(lock) == 1
        write(lock, "next", order)
        assert order == ["next"]

    def test_so_does_a_task(self) -> None:
        lock = WriteLock(0.01)
        order: list[str] = []

        async def wait_in_vain() -> None:
            async with lock.held_async():
                with pytest.raises(StoreBusy, match=r"0\.01 s"):
                    await asyncio.create_task(write_async(lock, "late", order))
                assert len(lock) == 1
            await write_async(lock, "next", order)

        in_loop(wait_in_vain())
        assert order == ["next"]

    def test_a_timeout_that_the_task_has_set_itself_is_not_ours(self, lock: WriteLock) -> None:
        async def wait_in_vain() -> None:
            async with lock.held_async():
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(write_async(lock, "late", []), 0.01)

        in_loop(wait_in_vain())

    def test_a_cancelled_task_leaves_the_queue_and_is_passed_over(self, lock: WriteLock, loop: EventLoop) -> None:
        order: list[str] = []
        with lock.held():
            tasks = []
            for number in range(4):
                tasks.append(loop.start(write_async(lock, str(number), order)))
                queued(lock, number + 2)
            loop.call(tasks[1].cancel)
            loop.call(tasks[3].cancel)
            queued(lock, 3)
        for task in tasks:
            loop.joined(task)
        assert [task.cancelled() for task in tasks] == [False, True, False, True]
        assert order == ["0", "2"]

    def test_a_task_that_is_cancelled_when_its_turn_has_come_hands_it_on(self, lock: WriteLock) -> None:
        order: list[str] = []

        async def cancel() -> None:
            async with lock.held_async():
                first = asyncio.create_task(write_async(lock, "cancelled", order))
                second = asyncio.create_task(write_async(lock, "next", order))
                await asyncio.sleep(0)
            first.cancel()  # it was called, and has not heard it yet
            await asyncio.gather(first, second, return_exceptions=True)
            assert first.cancelled()

        in_loop(cancel())
        assert order == ["next"]

    def test_a_task_whose_event_loop_was_closed_is_passed_over(self, lock: WriteLock, loop: EventLoop) -> None:
        order: list[str] = []
        with lock.held():
            task = loop.start(write_async(lock, "gone", order))
            queued(lock, 2)
            loop.stop()
            thread = in_thread(lambda: write(lock, "next", order))
            queued(lock, 3)
        joined(thread)
        assert order == ["next"]
        task.get_coro().close()  # type: ignore[union-attr]
        task._log_destroy_pending = False  # type: ignore[attr-defined]  the test has destroyed it on purpose

    def test_an_exception_in_the_block_lets_go(self, lock: WriteLock) -> None:
        with suppress(ValueError), lock.held():
            raise ValueError

        async def fail() -> None:
            async with lock.held_async():
                raise ValueError

        with suppress(ValueError):
            in_loop(fail())

    def test_a_block_that_nobody_ever_ends_is_ended_by_the_garbage_collector(self, lock: WriteLock) -> None:
        abandoned: Any = lock.held()
        abandoned.__enter__()
        circle = [abandoned]
        circle.append(circle)
        del abandoned, circle
        gc.collect()
        write(lock, "next", [])


class TestNesting:
    def test_a_thread_cannot_hold_it_twice(self, lock: WriteLock) -> None:
        with lock.held():
            with pytest.raises(NestedWrite, match=r"inside another write\(\).*Nothing was written") as caught, lock.held():
                pass
            assert "outer block's session" in caught.value.hint
            assert len(lock) == 1

    def test_nor_can_a_task(self, lock: WriteLock) -> None:
        async def nest() -> None:
            async with lock.held_async():
                with pytest.raises(NestedWrite, match="outer block's session"):
                    await write_async(lock, "", [])
                assert len(lock) == 1

        in_loop(nest())

    def test_nor_a_task_below_a_thread_that_holds_it(self, lock: WriteLock) -> None:
        """The event loop runs inside the block, which can only end when the loop does."""
        with lock.held(), pytest.raises(NestedWrite):
            in_loop(write_async(lock, "", []))

    def test_a_task_may_wait_for_another_one_that_holds_it_as_a_thread_does(self, lock: WriteLock) -> None:
        order: list[str] = []

        async def hold(go_on: asyncio.Event) -> None:
            with lock.held():
                await go_on.wait()
                order.append("holder")

        async def both() -> None:
            go_on = asyncio.Event()
            holder = asyncio.create_task(hold(go_on))
            await asyncio.sleep(0)
            other = asyncio.create_task(write_async(lock, "other", order))
            await asyncio.sleep(0)
            go_on.set()
            await asyncio.gather(holder, other)

        in_loop(both())
        assert order == ["holder", "other"]

    def test_a_plain_write_that_would_stop_the_task_it_waits_for_is_refused(self, lock: WriteLock) -> None:
        async def stop() -> None:
            inside, go_on = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                async with lock.held_async():
                    inside.set()
                    await go_on.wait()

            task = asyncio.create_task(hold())
            await inside.wait()
            with pytest.raises(NestedWrite, match=r"write_async\(\)"):
                write(lock, "", [])
            go_on.set()
            await task

        in_loop(stop())

    def test_a_plain_write_goes_ahead_of_the_waiting_tasks_that_it_stops(self, lock: WriteLock) -> None:
        """They came first, and could not write before it is done: waiting for them would be waiting for itself."""
        order: list[str] = []
        inside, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with lock.held():
                inside.set()
                assert go_on.wait(PATIENCE)

        async def write_all() -> None:
            tasks = [asyncio.create_task(write_async(lock, f"task {number}", order)) for number in range(3)]
            await asyncio.sleep(0)
            waiting = in_thread(lambda: write(lock, "thread", order))
            queued(lock, 5)
            releasing = in_thread(lambda: (queued(lock, 6), go_on.set()))
            write(lock, "plain", order)
            joined(waiting)
            joined(releasing)
            await asyncio.gather(*tasks)

        holder = in_thread(hold)
        assert inside.wait(PATIENCE)
        in_loop(write_all())
        joined(holder)
        assert order == ["thread", "plain", "task 0", "task 1", "task 2"]

    def test_also_of_one_whose_turn_has_come_while_it_could_not_hear_it(self, lock: WriteLock) -> None:
        order: list[str] = []

        async def write_all() -> None:
            async with lock.held_async():
                task = asyncio.create_task(write_async(lock, "task", order))
                await asyncio.sleep(0)
            write(lock, "plain", order)
            await task

        in_loop(write_all())
        assert order == ["plain", "task"]

    @pytest.mark.skipif(os.name == "nt", reason="signals come otherwise there")
    def test_a_signal_handler_that_writes_while_its_thread_waits_is_refused(self, lock: WriteLock) -> None:
        refused: list[NestedWrite] = []
        inside, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with lock.held():
                inside.set()
                assert go_on.wait(PATIENCE)

        def handle(*_: object) -> None:
            with pytest.raises(NestedWrite) as caught:
                write(lock, "handler", [])
            refused.append(caught.value)
            go_on.set()

        def send() -> None:
            queued(lock, 2)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        with handling(signal.SIGUSR1, handle):
            holder = in_thread(hold)
            assert inside.wait(PATIENCE)
            sender = in_thread(send)
            order: list[str] = []
            write(lock, "main", order)
        joined(sender)
        joined(holder)
        assert order == ["main"]
        assert len(refused) == 1


@pytest.mark.skipif(os.name == "nt", reason="signals come otherwise there")
def test_ctrl_c_while_waiting_leaves_the_queue(lock: WriteLock) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.held():
            inside.set()
            assert go_on.wait(PATIENCE)

    def interrupt() -> None:
        queued(lock, 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    order: list[str] = []
    with handling(signal.SIGINT, signal.default_int_handler):
        holder = in_thread(hold)
        assert inside.wait(PATIENCE)
        interrupter = in_thread(interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            write(lock, "interrupted", order)
        assert len(lock) == 1
        joined(interrupter)
        waiting = in_thread(lambda: write(lock, "next", order))
        queued(lock, 2)
        go_on.set()
    joined(waiting)
    joined(holder)
    assert order == ["next"]


class TestSeveralLocksOnOneFile:
    @pytest.fixture
    def one(self, tmp_path: Path) -> Iterator[WriteLock]:
        lock = WriteLock(PATIENCE, tmp_path / "one.db")
        yield lock
        assert len(lock) == 0

    @pytest.fixture
    def other(self, tmp_path: Path) -> Iterator[WriteLock]:
        lock = WriteLock(PATIENCE, tmp_path / "one.db")
        yield lock
        assert len(lock) == 0

    def test_a_thread_cannot_hold_both(self, one: WriteLock, other: WriteLock) -> None:
        with one.held(), pytest.raises(NestedWrite), other.held():
            pass
        write(other, "afterwards", [])

    def test_nor_can_a_task(self, one: WriteLock, other: WriteLock) -> None:
        async def nest() -> None:
            async with one.held_async():
                with pytest.raises(NestedWrite):
                    await write_async(other, "", [])
            await write_async(other, "afterwards", [])

        in_loop(nest())

    def test_another_thread_or_task_can(self, one: WriteLock, other: WriteLock) -> None:
        async def both() -> None:
            async with one.held_async():
                await asyncio.create_task(write_async(other, "task", order))

        order: list[str] = []
        with one.held():
            joined(in_thread(lambda: write(other, "thread", order)))
        in_loop(both())
        assert order == ["thread", "task"]

    def test_one_on_another_file_does_not_matter(self, one: WriteLock, tmp_path: Path) -> None:
        order: list[str] = []
        with one.held():
            write(WriteLock(PATIENCE, tmp_path / "other.db"), "other file", order)
        assert order == ["other file"]

    def test_a_file_may_be_let_go_of_inside_a_write_through_another(self, one: WriteLock, other: WriteLock) -> None:
        with one.held():
            with other.held(closing=True):
                pass
            with pytest.raises(NestedWrite), one.held(closing=True):
                pass
