"""Streams: values from one thread to a reader in another, or in any event loop."""

from __future__ import annotations

import asyncio

import pytest

from localstore.errors import StreamOverflow
from localstore.sync.stream import Broadcast, Stream
from tests.unit.session_kit import eventually, in_loop, in_thread, joined

BUFFER = 64


@pytest.fixture
def stream() -> Stream[int]:
    return Stream(lambda _: None)


def test_values_come_in_order_and_then_it_ends(stream: Stream[int]) -> None:
    for value in (1, 2, 3):
        stream.put(value)
    stream.end()
    assert list(stream) == [1, 2, 3]


def test_an_end_stays_the_end(stream: Stream[int]) -> None:
    stream.end()
    stream.put(1)
    stream.end()
    assert list(stream) == []
    assert next(stream, "over") == "over"


def test_none_and_other_false_values_are_values() -> None:
    stream: Stream[object] = Stream(lambda _: None)
    for value in (None, 0, "", False):
        stream.put(value)
    stream.end()
    assert list(stream) == [None, 0, "", False]


def test_a_reader_in_a_thread_waits_for_values(stream: Stream[int]) -> None:
    read: list[int] = []
    reader = in_thread(lambda: read.extend(stream))
    stream.put(1)
    eventually(lambda: read == [] or read == [1])
    stream.put(2)
    stream.end()
    joined(reader)
    assert read == [1, 2]


def test_a_reader_in_an_event_loop_waits_without_blocking_it(stream: Stream[int]) -> None:
    async def read() -> list[int]:
        return [value async for value in stream]

    async def write() -> None:
        for value in (1, 2, 3):
            await asyncio.to_thread(stream.put, value)
            await asyncio.sleep(0)  # would never come back if the reader blocked
        stream.end()

    async def both() -> list[int]:
        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await write()
        return await reading

    assert in_loop(both()) == [1, 2, 3]


def test_many_values_from_another_thread_all_arrive(stream: Stream[int]) -> None:
    read: list[int] = []

    def write() -> None:
        for value in range(2000):
            eventually(lambda: value - len(read) < BUFFER // 2)  # noqa: B023  used at once
            stream.put(value)
        stream.end()

    async def follow() -> None:
        async for value in stream:
            read.append(value)

    writer = in_thread(write)
    in_loop(follow())
    joined(writer)
    assert read == list(range(2000))


def test_a_cancelled_reader_loses_no_value(stream: Stream[int]) -> None:
    async def read() -> int:
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stream.put(1)
        return await anext(stream)

    assert in_loop(read()) == 1


def test_a_reader_whose_event_loop_has_gone_harms_nobody(stream: Stream[int]) -> None:
    loop = asyncio.new_event_loop()
    reading = loop.create_task(anext(stream))
    loop.run_until_complete(asyncio.sleep(0))
    reading.cancel()
    loop.run_until_complete(asyncio.gather(reading, return_exceptions=True))
    loop.close()
    stream.put(1)
    assert next(stream) == 1


def test_a_slow_reader_gets_what_was_kept_and_then_an_error(stream: Stream[int]) -> None:
    for value in range(BUFFER + 10):
        stream.put(value)
    assert [next(stream) for _ in range(BUFFER)] == list(range(BUFFER))
    with pytest.raises(StreamOverflow):
        next(stream)


def test_a_slow_reader_in_an_event_loop_gets_the_same_error(stream: Stream[int]) -> None:
    for value in range(BUFFER + 1):
        stream.put(value)

    async def read() -> list[int]:
        values = [await anext(stream) for _ in range(BUFFER)]
        with pytest.raises(StreamOverflow):
            await anext(stream)
        return values

    assert in_loop(read()) == list(range(BUFFER))


def test_a_full_buffer_is_not_yet_too_much(stream: Stream[int]) -> None:
    for value in range(BUFFER):
        stream.put(value)
    stream.end()
    assert len(list(stream)) == BUFFER


def test_a_closed_stream_says_nothing_more(stream: Stream[int]) -> None:
    for value in (1, 2, 3):
        stream.put(value)
    read = []
    for value in stream:
        read.append(value)
        stream.close()
        stream.put(4)
    assert read == [1]


def test_closing_tells_the_source(stream: Stream[int]) -> None:
    closed: list[Stream[int]] = []
    with Stream(closed.append) as stream:
        assert closed == []
    assert closed == [stream]
    assert list(stream) == []


def test_closing_wakes_a_reader(stream: Stream[int]) -> None:
    reader = in_thread(lambda: list(stream))
    stream.close()
    joined(reader)


def test_closing_after_an_overflow_is_quiet(stream: Stream[int]) -> None:
    for value in range(BUFFER + 1):
        stream.put(value)
    stream.close()
    assert list(stream) == []


class TestTheLatestOnly:
    def test_what_was_overtaken_is_not_read(self) -> None:
        stream: Stream[int] = Stream(lambda _: None, latest_only=True)
        for value in range(1000):
            stream.put(value)
        stream.end()
        assert list(stream) == [999]


class TestCallbacks:
    def test_they_are_called_in_order_and_not_before_delivery(self) -> None:
        source, heard = Broadcast[int](), list[int]()
        source.listen(heard.append)
        source.put(1)
        source.put(2)
        assert heard == []
        source.deliver()
        assert heard == [1, 2]

    def test_one_may_end_itself_and_others_while_it_is_called(self) -> None:
        source, heard = Broadcast[int](), list[str]()

        def first(_: int) -> None:
            heard.append("first")
            stop_first()
            stop_second()

        stop_first = source.listen(first)
        stop_second = source.listen(lambda _: heard.append("second"))
        source.listen(lambda _: heard.append("third"))
        for _ in range(2):
            source.put(0)
            source.deliver()
        assert heard == ["first", "third", "third"]

    def test_one_that_is_registered_twice_is_called_twice_and_ended_one_by_one(self) -> None:
        source, heard = Broadcast[int](), list[int]()
        stop = source.listen(heard.append)
        source.listen(heard.append)
        source.put(1)
        source.deliver()
        stop()
        stop()
        source.put(2)
        source.deliver()
        assert heard == [1, 1, 2]

    def test_what_one_raises_is_logged_and_the_others_are_called(self, caplog: pytest.LogCaptureFixture) -> None:
        source, heard = Broadcast[int](), list[int]()

        def fail(_: int) -> None:
            raise ZeroDivisionError

        source.listen(fail)
        source.listen(heard.append)
        source.put(1)
        source.deliver()
        assert heard == [1]
        assert "A callback failed; sync goes on." in caplog.text

    def test_what_is_put_while_they_are_called_comes_after(self) -> None:
        source, heard = Broadcast[int](), list[int]()

        def again(value: int) -> None:
            if value < 3:
                source.put(value + 1)
                source.deliver()
            heard.append(value)

        source.listen(again)
        source.put(1)
        source.deliver()
        assert heard == [1, 2, 3]

    def test_after_the_end_nobody_hears_anything(self) -> None:
        source, heard = Broadcast[int](), list[int]()
        source.listen(heard.append)
        stream = source.stream()
        source.put(1)
        source.end()
        assert heard == []
        source.put(2)
        source.deliver()
        source.listen(heard.append)
        assert heard == [1]
        assert list(stream) == [1]
        assert list(source.stream()) == []
        assert not source.has_readers
