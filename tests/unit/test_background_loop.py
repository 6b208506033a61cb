"""The one thread with an event loop in it, in which all sessions of an app run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from localstore.sync.loop import BackgroundLoop
from tests.unit.session_kit import PATIENCE, eventually, in_thread, joined, no_threads_are_left


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop("test-loop")
    yield loop
    loop.stop(PATIENCE)
    no_threads_are_left()


def start(loop: BackgroundLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    loop.post(lambda: asyncio.ensure_future(coroutine))


def in_order(*functions: Callable[[], object]) -> Callable[[], None]:
    """One function that calls others."""

    def call() -> None:
        for function in functions:
            function()

    return call


def test_no_thread_is_started_before_it_is_needed(loop: BackgroundLoop) -> None:
    assert "test-loop" not in [thread.name for thread in threading.enumerate()]
    loop.stop(PATIENCE)


def test_functions_run_in_one_thread_in_the_order_of_their_posts(loop: BackgroundLoop) -> None:
    seen: list[int] = []
    names: set[str] = set()
    last = threading.Event()
    for number in range(200):
        loop.post(partial(seen.append, number))
        loop.post(lambda: names.add(threading.current_thread().name))
    loop.post(last.set)
    assert last.wait(PATIENCE)
    assert seen == list(range(200))
    assert names == {"test-loop"}


def test_threads_that_post_at_once_share_one_loop(loop: BackgroundLoop) -> None:
    idents: set[int] = set()
    threads = [in_thread(lambda: loop.post(lambda: idents.add(threading.get_ident()))) for _ in range(20)]
    for thread in threads:
        joined(thread)
    done = threading.Event()
    loop.post(done.set)
    assert done.wait(PATIENCE)
    assert len(idents) == 1


def test_a_function_that_fails_harms_no_other(loop: BackgroundLoop, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    loop.post(lambda: 1 / 0)
    loop.post(done.set)
    assert done.wait(PATIENCE)
    assert "ZeroDivisionError" in caplog.text


def test_stopping_cancels_what_runs_and_waits_for_its_end(loop: BackgroundLoop) -> None:
    started, steps = threading.Event(), []

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            for step in range(5):
                await asyncio.sleep(0)
                steps.append(step)

    start(loop, work())
    assert started.wait(PATIENCE)
    loop.stop(PATIENCE)
    assert steps == [0, 1, 2, 3, 4]
    no_threads_are_left()


def test_stopping_does_not_interrupt_what_is_ending_already(loop: BackgroundLoop) -> None:
    """A connection that is being closed in an orderly way must not be torn off because the app closes right afterwards."""
    ending, steps = threading.Event(), []
    tasks: list[asyncio.Task[None]] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            for step in range(50):
                await asyncio.sleep(0.001)
                steps.append(step)

    def begin() -> None:
        tasks.append(asyncio.ensure_future(work()))

    loop.post(begin)
    eventually(lambda: tasks)
    done = threading.Event()
    loop.post(lambda: asyncio.get_running_loop().call_soon(done.set))
    assert done.wait(PATIENCE)
    loop.post(lambda: tasks[0].cancel())
    assert ending.wait(PATIENCE)
    loop.stop(PATIENCE)
    assert steps == list(range(50))


def test_stopping_does_not_wait_for_ever_for_what_never_ends() -> None:
    loop = BackgroundLoop("test-loop")
    ending = threading.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await asyncio.Event().wait()

    tasks: list[asyncio.Task[None]] = []
    loop.post(lambda: tasks.append(asyncio.ensure_future(work())))
    loop.post(lambda: asyncio.get_running_loop().call_soon(tasks[0].cancel))
    assert ending.wait(PATIENCE)
    loop.stop(PATIENCE)
    no_threads_are_left()


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_stopping_does_not_wait_for_what_only_lets_go_of_its_line(is_cancelled: bool) -> None:
    loop, letting_go, go = BackgroundLoop("test-loop"), threading.Event(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    ended: list[str] = []

    async def work() -> None:
        try:
            if is_cancelled:
                await asyncio.Event().wait()
        finally:
            with loop.letting_go():
                letting_go.set()
                await go.wait()
                ended.append("in order")

    loop.post(lambda: tasks.append(loop.begin(work())))
    if is_cancelled:
        loop.post(lambda: asyncio.get_running_loop().call_soon(tasks[0].cancel))
    assert letting_go.wait(PATIENCE)
    loop.stop(PATIENCE)
    assert not ended
    tasks[0].get_loop().call_soon_threadsafe(go.set)
    loop.stop(PATIENCE, to_the_end=True)
    assert ended == ["in order"]
    no_threads_are_left()


def test_stopping_waits_for_all_else(loop: BackgroundLoop) -> None:
    letting_go, started, ended, go = threading.Event(), threading.Event(), threading.Event(), asyncio.Event()

    async def let_go() -> None:
        with loop.letting_go():
            letting_go.set()
            await go.wait()

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            for _ in range(50):
                await asyncio.sleep(0.001)
            ended.set()
            go.set()

    start(loop, let_go())
    start(loop, work())
    assert letting_go.wait(PATIENCE)
    assert started.wait(PATIENCE)
    loop.stop(PATIENCE)
    assert ended.is_set()


def test_blocking_work_has_ended_when_stopping_has(loop: BackgroundLoop) -> None:
    started, ended = threading.Event(), threading.Event()
    go_on = threading.Event()

    def block() -> None:
        started.set()
        go_on.wait(PATIENCE)
        ended.set()

    async def work() -> None:
        await asyncio.to_thread(block)

    start(loop, work())
    assert started.wait(PATIENCE)
    releasing = in_thread(in_order(lambda: threading.Event().wait(0.05), go_on.set))
    loop.stop(PATIENCE)
    assert ended.is_set()
    joined(releasing)


def test_what_is_posted_after_the_end_is_dropped(loop: BackgroundLoop) -> None:
    called: list[int] = []
    loop.post(lambda: called.append(1))
    loop.stop(PATIENCE)
    loop.post(lambda: called.append(2))
    no_threads_are_left()
    assert called in ([1], [])


def test_what_is_posted_after_the_end_starts_no_thread_either_when_there_was_none(loop: BackgroundLoop) -> None:
    loop.stop(PATIENCE)
    loop.post(lambda: None)
    assert "test-loop" not in [thread.name for thread in threading.enumerate()]


def test_stopping_twice_is_fine(loop: BackgroundLoop) -> None:
    loop.post(lambda: None)
    loop.stop(PATIENCE)
    loop.stop(PATIENCE)


def test_it_may_be_stopped_from_inside(loop: BackgroundLoop) -> None:
    stopped = threading.Event()
    loop.post(in_order(lambda: loop.stop(PATIENCE), stopped.set))
    assert stopped.wait(PATIENCE)
    no_threads_are_left()
