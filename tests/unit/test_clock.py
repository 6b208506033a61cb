"""Stamps: always forwards, whatever the wall clock does."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from localstore.clock import COUNTER_BITS, MAX_STAMP, next_stamp, stamp_at, stamp_ms, stamp_time

milliseconds = st.integers(0, 2**47 - 1)


@given(milliseconds)
def test_a_stamp_tells_its_millisecond(now_ms: int) -> None:
    assert stamp_ms(stamp_at(now_ms)) == now_ms
    assert 0 <= stamp_at(now_ms) <= MAX_STAMP


def test_a_stamp_tells_its_time_in_utc() -> None:
    assert stamp_time(stamp_at(1_767_225_600_250)) == datetime(2026, 1, 1, microsecond=250_000, tzinfo=UTC)


@given(st.integers(0, MAX_STAMP - 1), milliseconds)
def test_the_next_stamp_is_later_than_the_last_and_not_before_now(last: int, now_ms: int) -> None:
    stamp = next_stamp(last, now_ms)
    assert stamp > last
    assert stamp >= stamp_at(now_ms)
    assert stamp in (last + 1, stamp_at(now_ms))


@given(milliseconds, st.lists(st.integers(-(10**9), 10**9), max_size=30))
def test_stamps_go_forwards_while_the_clock_steps_about(start_ms: int, steps_ms: list[int]) -> None:
    stamps = [stamp_at(start_ms)]
    for step_ms in steps_ms:
        stamps.append(next_stamp(stamps[-1], max(0, start_ms + step_ms)))
    assert stamps == sorted(set(stamps))


def test_a_full_counter_runs_over_into_the_milliseconds() -> None:
    full = stamp_at(1000) + 2**COUNTER_BITS - 1
    assert next_stamp(full, 1000) == stamp_at(1001)
    assert next_stamp(stamp_at(1001), 1000) == stamp_at(1001) + 1
