"""Writes that wait for the same lock share a transaction, and nobody's failure is another's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from localstore.errors import Busy, ResetRequired
from localstore_adapters._sql_together import Part, Together


class Database:
    """Keeps what committed transactions wrote, each as a list."""

    def __init__(self) -> None:
        self.committed: list[list[str]] = []
        self.begun = 0
        self.is_busy = False
        self.together = Together(self.writing)

    @contextlib.contextmanager
    def writing(self) -> Iterator[list[str]]:
        self.begun += 1
        if self.is_busy:
            raise Busy("Another writer holds the lock.")
        written: list[str] = []
        yield written
        self.committed.append(written)

    def write(self, word: str) -> Part[list[str], str]:
        return self.together.add(writes(word))


def writes(word: str) -> Callable[[list[str]], str]:
    def work(transaction: list[str]) -> str:
        transaction.append(word)
        return word.upper()

    return work


def fails(transaction: list[str]) -> str:
    transaction.append("half of it")
    raise ResetRequired("device forked")


@pytest.fixture
def database() -> Database:
    return Database()


def test_what_waits_is_written_in_one_transaction_in_its_order(database: Database) -> None:
    parts = [database.write(word) for word in ("a", "b", "c")]
    assert [database.together.finish(part) for part in parts] == ["A", "B", "C"]
    assert database.committed == [["a", "b", "c"]]


def test_what_comes_later_is_in_the_next_transaction(database: Database) -> None:
    database.together.finish(database.write("a"))
    database.together.finish(database.write("b"))
    assert database.committed == [["a"], ["b"]]


def test_what_is_done_is_not_kept_waiting_for_what_came_since(database: Database) -> None:
    """Else the two that wait for each other's commit would go on so, each with one of its own."""
    first, second = database.write("a"), database.write("b")
    database.together.finish(first)
    third, last = database.write("c"), database.write("d")
    assert database.together.finish(second) == "B"
    assert database.committed == [["a", "b"]]
    assert [database.together.finish(part) for part in (third, last)] == ["C", "D"]
    assert database.committed == [["a", "b"], ["c", "d"]]


def test_who_fails_fails_alone_and_leaves_nothing(database: Database) -> None:
    first, bad, last = database.write("a"), database.together.add(fails), database.write("b")
    assert database.together.finish(first) == "A"
    with pytest.raises(ResetRequired):
        database.together.finish(bad)
    assert database.together.finish(last) == "B"
    assert database.committed == [["a"], ["b"]]


def test_a_lock_that_is_not_to_be_had_is_waited_for_once_for_all(database: Database) -> None:
    database.is_busy = True
    for part in [database.write(word) for word in ("a", "b", "c")]:
        with pytest.raises(Busy):
            database.together.finish(part)
    assert database.begun == 1


def test_who_comes_while_another_thread_writes_it_waits_for_that(database: Database) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow(transaction: list[str]) -> str:
        began.set()
        go_on.wait(20)
        return "slow"

    first, second = database.together.add(slow), database.write("a")
    thread = threading.Thread(target=database.together.finish, args=(first,))
    thread.start()
    assert began.wait(20)
    threading.Timer(0.05, go_on.set).start()
    assert database.together.finish(second) == "A"
    thread.join(20)
    assert database.begun == 1
