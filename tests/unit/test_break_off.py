"""Breaking off a call at one of its waits, on which the conformance suite's rules about cancelled calls stand."""

from __future__ import annotations

import asyncio

import pytest

from localstore.testing.conformance.cancelling import Moment, break_off


class Works:
    """A call with three waits: for a turn of the loop, for a future that comes to be done, and for the loop again."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def call(self) -> None:
        self.done.append("started")
        await asyncio.sleep(0)
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(self._set, future)
        await future
        self.done.append("heard of it")
        await asyncio.sleep(0)
        self.done.append("ended")

    def _set(self, future: asyncio.Future[None]) -> None:
        if not future.cancelled():
            self.done.append("had its effect")
            future.set_result(None)


@pytest.mark.parametrize(
    ("wait", "moment", "done"),
    [
        (0, "begins", ["started"]),
        (0, "ends", ["started"]),
        (1, "begins", ["started"]),
        (1, "ends", ["started", "had its effect"]),
        (2, "begins", ["started", "had its effect", "heard of it"]),
        (3, "begins", ["started", "had its effect", "heard of it", "ended"]),
        (3, "ends", ["started", "had its effect", "heard of it", "ended"]),
    ],
)
def test_a_call_is_broken_off_at_the_wait_that_is_named(wait: int, moment: Moment, done: list[str]) -> None:
    works = Works()
    assert asyncio.run(break_off(works.call(), wait, moment)) == (wait < 3)
    assert works.done == done


def test_an_error_of_the_call_is_raised() -> None:
    async def call() -> None:
        await asyncio.sleep(0)
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        asyncio.run(break_off(call(), 5, "begins"))
