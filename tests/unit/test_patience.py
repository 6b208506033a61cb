"""A call to a database that does not answer ends at some time; one that gets something now and then goes on."""

from __future__ import annotations

from collections.abc import Generator

import pytest

pytest.importorskip("psycopg", reason="needs the extra postgres")

from psycopg import OperationalError

from localstore.patience import in_time

NOTHING, SOMETHING = 0, 1


class Server:
    """Answers after so many pieces, as a call of the driver's hears of them."""

    def __init__(self, pieces: int) -> None:
        self.now = 0.0
        self.is_given_up = False
        self._pieces = pieces

    def call(self) -> Generator[str, int, str]:
        got = 0
        while got < self._pieces:
            got += yield "to read"
        return "all of it"

    def give_up(self) -> None:
        self.is_given_up = True

    def asked(self) -> Generator[str, int, str]:
        return in_time(self.call(), self.give_up, 10.0, lambda: self.now)


def hear(asked: Generator[str, int, str], server: Server, came: int, *, after: float) -> None:
    server.now += after
    assert asked.send(came) == "to read"


def test_an_answer_comes_through() -> None:
    server = Server(pieces=1)
    asked = server.asked()
    assert next(asked) == "to read"
    hear(asked, server, NOTHING, after=9.9)
    with pytest.raises(StopIteration) as end:
        asked.send(SOMETHING)
    assert end.value.value == "all of it"
    assert not server.is_given_up


def test_a_call_that_waits_for_nothing_is_done_at_once() -> None:
    with pytest.raises(StopIteration) as end:
        next(Server(pieces=0).asked())
    assert end.value.value == "all of it"


def test_a_server_of_which_nothing_is_heard_is_given_up() -> None:
    server = Server(pieces=1)
    asked = server.asked()
    next(asked)
    hear(asked, server, NOTHING, after=9.9)
    with pytest.raises(OperationalError, match="nothing was heard"):
        hear(asked, server, NOTHING, after=0.1)
    assert server.is_given_up


def test_an_answer_that_comes_in_many_pieces_may_take_as_long_as_it_wants() -> None:
    server = Server(pieces=5)
    asked = server.asked()
    next(asked)
    for _ in range(4):
        hear(asked, server, NOTHING, after=9.0)
        hear(asked, server, SOMETHING, after=0.9)
    assert not server.is_given_up
