"""Whatever moment an interruption chooses, a write is in the file whole or not at all, and the next one works.

Nothing is left to chance: Ctrl-C comes at one line after the other, a cancellation at one step after the other, until the
write gets through without having met it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Awaitable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import connect
from types import FrameType
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event
from sqlmodel import select

import localstore
from localstore import LocalConfiguration, Realm
from localstore.settings import Settings
from localstore.store.engine import begin_writing
from tests.unit.session_kit import PATIENCE, Note, World, add, eventually, in_loop, sql, texts

PACKAGE = Path(localstore.__file__).parent
OURS = (str(PACKAGE / "store"), str(PACKAGE / "realm.py"), contextlib.__file__)
"""Where Ctrl-C comes: in all of a write but the libraries. A tracer also comes between a ``with`` and its lock's release, where
no signal ever does, so what holds a plain lock is left out."""
SQLALCHEMY = Path(sqlalchemy.__file__).parent
LIBRARIES = (*OURS, *(str(SQLALCHEMY / name) for name in ("engine", "pool", "orm/session.py", "orm/unitofwork.py")))
"""The same with those parts of SQLAlchemy that begin and end a transaction; they hold no plain lock either."""
STEPS_MAX = 5000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture
def synced(world: World) -> Realm:
    world.remote.go_offline()
    realm = world.device(busy_timeout=PATIENCE).open()
    world.at_rest()
    return realm


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Realm]:
    settings = Settings(busy_timeout=3 * PATIENCE)  # what should not wait for it is noticed
    with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema={Note}, settings=settings)) as realm:
        yield realm


@pytest.fixture(params=["local", "synced"])
def realm(request: pytest.FixtureRequest) -> Realm:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Realm)
    return found


class DeclinedError(Exception):
    """What a block of these tests raises."""


class Wrote:
    """What a test wrote, and whether the file holds the whole of each write."""

    def __init__(self, realm: Realm) -> None:
        self._realm = realm
        self._whole = 0

    def check(self, name: str) -> bool:
        """Whether the write of this name is in the file; nothing of it may be missing, nor keep others from writing."""
        assert len(self._realm._store.lock) == 0
        with closing(connect(self._realm.path, isolation_level=None, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")  # nobody kept a transaction open
            other.execute("ROLLBACK")
        found = texts(self._realm).count(name)
        assert found in (0, 2)
        add(self._realm, "next")
        self._whole += 1 + found // 2
        if self._realm._store.synced:
            assert [changeset.number for changeset in self._realm.pending()] == list(range(1, self._whole + 1))
            assert sql(self._realm.path, "SELECT count(*) FROM localstore_log") == [(0,)]
        return found == 2


def write(realm: Realm, name: str) -> None:
    with realm.write() as tx:
        tx.add(Note(text=name))
        tx.flush()
        tx.add(Note(text=name))


# -- Ctrl-C


class CtrlC:
    """Raises KeyboardInterrupt before the line of a number, counting those in some files as they are run."""

    def __init__(self, line: int, files: tuple[str, ...] = OURS) -> None:
        self.lines = 0
        self.came = False
        self._line = line
        self._files = files

    def __enter__(self) -> CtrlC:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _called(self, frame: FrameType, _event: str, _value: object) -> Any:
        return self._stepped if frame.f_code.co_filename.startswith(self._files) else None

    def _stepped(self, _frame: FrameType, event: str, _value: object) -> Any:
        if event == "line" and not self.came:
            self.lines += 1
            if self.lines == self._line:
                self.came = True
                raise KeyboardInterrupt
        return self._stepped


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool traces already")
def test_ctrl_c_at_any_line_leaves_a_write_whole_or_undone(realm: Realm) -> None:
    wrote = Wrote(realm)
    outcomes = set()
    for line in range(1, STEPS_MAX):
        name = f"interrupted at {line}"
        with suppress(KeyboardInterrupt), CtrlC(line) as ctrl_c:
            write(realm, name)
        outcome = (ctrl_c.came, wrote.check(name))
        outcomes.add(outcome)
        if not ctrl_c.came:
            break
    assert line > 100
    assert outcome == (False, True)
    assert outcomes == {(True, False), (True, True), (False, True)}  # undone, too late, and got through


@pytest.mark.slow
@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool traces already")
def test_ctrl_c_in_the_midst_of_sqlalchemy_leaves_a_write_whole_or_undone(realm: Realm) -> None:
    wrote = Wrote(realm)
    for line in range(1, STEPS_MAX, 2):
        name = f"interrupted at {line}"
        with suppress(KeyboardInterrupt), CtrlC(line, LIBRARIES) as ctrl_c:
            write(realm, name)
        wrote.check(name)
        if not ctrl_c.came:
            break
    assert 1000 < line < STEPS_MAX - 2


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool traces already")
def test_ctrl_c_is_what_arrives_and_no_error_of_the_libraries_below(local: Realm) -> None:
    arrived = []
    for line in range(1, STEPS_MAX):
        with CtrlC(line) as ctrl_c:
            try:
                write(local, "a")
            except BaseException as error:  # noqa: BLE001  which one it is, is the question
                arrived.append(type(error))
        if not ctrl_c.came:
            break
    assert set(arrived) == {KeyboardInterrupt}
    assert len(arrived) == line - 1


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool traces already")
def test_ctrl_c_at_any_line_of_a_write_that_fails_leaves_it_undone(realm: Realm) -> None:
    def fail(name: str) -> None:
        with realm.write() as tx:
            tx.add(Note(text=name))
            tx.flush()
            raise DeclinedError

    wrote = Wrote(realm)
    for line in range(1, STEPS_MAX):
        with suppress(KeyboardInterrupt, DeclinedError), CtrlC(line) as ctrl_c:
            fail("never")
        assert not wrote.check("never")
        if not ctrl_c.came:
            break
    assert line > 100


def test_ctrl_c_in_the_database_lets_go_of_the_file_at_once(realm: Realm) -> None:
    """As long as the traceback lives, so do the cursors in it; SQLite would wait for them before it rolls back."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def write_interrupted() -> None:
        with realm.write() as tx:
            names = tx.connection().exec_driver_sql("SELECT name FROM sqlite_master")
            assert names.fetchone()
            event.listen(tx.connection(), "after_cursor_execute", interrupt)
            tx.add(Note(text="never"))

    with pytest.raises(KeyboardInterrupt) as caught:
        write_interrupted()
    assert not Wrote(realm).check("never")
    del caught


def test_a_transaction_that_two_interruptions_left_open_is_rolled_back_by_the_next_write(local: Realm) -> None:
    with closing(connect(local.path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO note VALUES ('0', 'never')")
        begin_writing(connection, busy_timeout=1)
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (0,)
        assert connection.in_transaction


# -- cancelling


class Stepping(Coroutine[Any, Any, Any]):
    """Another coroutine, whose task is cancelled at one of its waits: as soon as it waits, or when the wait is over."""

    def __init__(self, inner: Coroutine[Any, Any, Any], step: int, *, when: str) -> None:
        self.steps = 0
        self._inner = inner
        self._step = step
        self._when = when

    def send(self, value: Any) -> Any:
        return self._waits(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._waits(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        raise NotImplementedError

    def _waits(self, future: asyncio.Future[Any] | None) -> Any:
        self.steps += 1
        task = asyncio.current_task()
        assert task is not None
        if self.steps == self._step:
            if self._when == "it begins to wait" or future is None:
                task.cancel()
            else:
                future.add_done_callback(lambda _: task.cancel())
        return future


async def write_in_steps(realm: Realm, name: str) -> None:
    async with realm.write_async() as tx:
        tx.add(Note(text=name))
        await asyncio.sleep(0)
        tx.flush()
        await asyncio.sleep(0)
        tx.add(Note(text=name))


async def hold(realm: Realm) -> None:
    """Keep others from writing for a while."""
    async with realm._store.lock.held_async():
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.mark.parametrize("when", ["it begins to wait", "the wait is over"])
@pytest.mark.parametrize("has_to_wait", [False, True], ids=["free", "behind another"])
def test_a_cancellation_at_any_step_leaves_a_write_whole_or_undone(realm: Realm, has_to_wait: bool, when: str) -> None:
    wrote = Wrote(realm)

    async def cancel_at(step: int, name: str) -> bool:
        others = [asyncio.create_task(hold(realm))] if has_to_wait else []
        await asyncio.sleep(0)
        task = asyncio.get_running_loop().create_task(Stepping(write_in_steps(realm, name), step, when=when))
        await asyncio.wait({task, *others})
        if not task.cancelled():
            task.result()
        return task.cancelled()

    async def cancel_at_each() -> list[tuple[bool, bool]]:
        outcomes = []
        for step in range(1, STEPS_MAX):
            name = f"cancelled at {step}"
            cancelled = await cancel_at(step, name)
            outcomes.append((cancelled, wrote.check(name)))
            if not cancelled:
                return outcomes
        raise AssertionError("never got through")

    outcomes = in_loop(cancel_at_each())
    steps_before_commit = len(outcomes) - 2
    assert steps_before_commit == (4 if has_to_wait else 3)
    assert outcomes == [(True, False)] * steps_before_commit + [(True, True), (False, True)]


def test_a_write_whose_task_is_thrown_away_at_any_step_is_whole_or_undone(realm: Realm) -> None:
    """Nobody can wait for it any more: the event loop was closed below it."""
    wrote = Wrote(realm)
    ended = False
    steps = 0
    while not ended:
        steps += 1
        loop = asyncio.new_event_loop()
        coroutine = write_in_steps(realm, f"thrown away at {steps}")
        ended = loop.run_until_complete(advance(coroutine, steps))
        loop.close()
        coroutine.close()
        wrote.check(f"thrown away at {steps}")
    assert steps > 4


async def advance(coroutine: Coroutine[Any, Any, None], waits: int) -> bool:
    """Run a coroutine until it waits for that many times; whether it came to its end before."""
    try:
        for number in range(waits):
            future = coroutine.send(None)
            if number < waits - 1 and future is not None:
                future._asyncio_future_blocking = False
                await asyncio.wait({future})
    except StopIteration:
        return True
    return False


def test_a_task_that_is_thrown_away_while_another_program_keeps_the_file_leaves_no_thread_behind(local: Realm) -> None:
    with closing(connect(local.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        loop = asyncio.new_event_loop()
        coroutine = write_in_steps(local, "thrown away")
        assert not loop.run_until_complete(advance(coroutine, 1))
        assert is_beginning()
        loop.close()
        coroutine.close()
        assert not is_beginning()
        other.execute("ROLLBACK")
    assert not Wrote(local).check("thrown away")


def is_beginning() -> bool:
    """Whether a thread begins a task's transaction, or commits one."""
    return any(thread.name == "localstore-write" for thread in threading.enumerate())


def test_a_cancellation_does_not_wait_until_another_program_lets_go_of_the_file(local: Realm) -> None:
    async def cancel() -> None:
        task = asyncio.create_task(write_in_steps(local, "a"))
        while not is_beginning():  # noqa: ASYNC110
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    with closing(connect(local.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        in_loop(cancel())  # in less time than the busy timeout, which is as long as the test's patience
        assert other.in_transaction
        other.execute("ROLLBACK")
    assert not Wrote(local).check("a")


def test_threads_of_the_loop_that_wait_for_a_task_do_not_keep_it_from_committing(realm: Realm) -> None:
    """As many plain writes as the pool has threads wait for the task's turn to end; it needs no thread of theirs."""

    async def write_all() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(2) as pool:
            loop.set_default_executor(pool)
            waiting: list[Awaitable[Any]] = []
            async with realm.write_async() as tx:
                tx.add(Note(text="task"))
                waiting += [asyncio.to_thread(add, realm, "thread") for _ in range(4)]
                waiting = [asyncio.ensure_future(each) for each in waiting]  # type: ignore[arg-type]
                while len(realm._store.lock) < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            await asyncio.gather(*waiting)

    in_loop(write_all())
    assert texts(realm) == ["task", *["thread"] * 4]


def test_a_commit_that_a_cancellation_came_too_late_for_is_announced(world: World) -> None:
    realm = world.open()
    world.at_rest()

    async def cancel_too_late() -> None:
        for step in range(1, STEPS_MAX):
            stepping = Stepping(write_in_steps(realm, "a"), step, when="it begins to wait")
            task = asyncio.get_running_loop().create_task(stepping)
            await asyncio.wait({task})
            if texts(realm):
                assert task.cancelled()
                return

    in_loop(cancel_too_late())
    eventually(lambda: realm.pending() == [], "the session to upload what it was told of")
    assert realm.exec(select(Note.text)).all() == ["a", "a"]
