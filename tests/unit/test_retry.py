"""How long a session waits after errors."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from localstore.errors import Busy, Offline, RateLimited, SyncError
from localstore.sync.retry import Backoff, BackoffPolicy


class Blip(Offline):
    """Another kind of error that passes."""


def backoff(*, draw: float = 0.0, **figures: float) -> Backoff:
    return Backoff(BackoffPolicy(**figures), lambda: draw)


def waits(backoff: Backoff, count: int, error: SyncError | None = None) -> list[float]:
    return [backoff.failed(error or Offline("gone")) for _ in range(count)]


def test_the_usual_waits_double_from_a_second_to_five_minutes() -> None:
    assert waits(backoff(), 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_the_figures_can_be_chosen() -> None:
    assert waits(backoff(initial=0.5, factor=3, max=10), 5) == [0.5, 1.5, 4.5, 10, 10]


def test_a_factor_of_one_does_not_grow() -> None:
    assert waits(backoff(factor=1), 3) == [1, 1, 1]


def test_a_longest_wait_below_the_first_one_counts() -> None:
    assert waits(backoff(initial=5, max=2), 2) == [2, 2]


def test_a_device_that_failed_for_years_still_waits_no_longer_than_the_longest_wait() -> None:
    failing = backoff(jitter=0)
    assert waits(failing, 20_000)[-1] == 300


def test_jitter_takes_off_its_share_and_never_adds() -> None:
    assert waits(backoff(draw=0.5, jitter=0.2), 3) == pytest.approx([0.9, 1.8, 3.6])
    assert waits(backoff(draw=1.0, jitter=0.25), 10)[-1] == pytest.approx(225)
    drawn = waits(Backoff(BackoffPolicy(factor=1), random.Random(7).random), 200)
    assert all(0.75 < wait <= 1 for wait in drawn)
    assert len(set(drawn)) > 190


def test_without_jitter_nothing_is_left_to_chance() -> None:
    assert waits(backoff(draw=0.9, jitter=0), 3) == [1, 2, 4]


def test_a_reset_starts_from_the_first_wait() -> None:
    failing = backoff()
    waits(failing, 5)
    failing.reset()
    assert waits(failing, 3) == [1, 2, 4]


def test_another_kind_of_error_starts_from_the_first_wait() -> None:
    failing, errors = backoff(), (Offline("a"), Offline("b"), Busy("c"), Busy("d"), Offline("e"))
    assert [failing.failed(error) for error in errors] == [1, 2, 1, 2, 1]


def test_a_narrower_error_is_another_kind() -> None:
    failing = backoff()
    assert [failing.failed(error) for error in (Offline("a"), Offline("b"), Blip("c"))] == [1, 2, 1]


def test_it_waits_at_least_as_long_as_the_remote_asks() -> None:
    assert waits(backoff(), 3, RateLimited("slow down", retry_after=3)) == [3, 3, 4]
    assert waits(backoff(), 2, Busy("full", retry_after=1000)) == [1000, 1000]


def test_a_remote_that_asks_for_nothing_gets_the_usual_waits() -> None:
    assert waits(backoff(), 3, Busy("full")) == [1, 2, 4]
    assert waits(backoff(), 2, RateLimited("full", retry_after=0)) == [1, 2]


def test_what_the_remote_asks_for_is_not_shortened_by_jitter() -> None:
    assert waits(backoff(draw=0.9, jitter=0.9), 1, Busy("full", retry_after=60)) == [60]


def test_waits_never_shrink_while_the_same_error_goes_on() -> None:
    found = waits(backoff(factor=1.3), 60)
    assert all(before <= after for before, after in pairwise(found))


@pytest.mark.parametrize("asked", [math.inf, 1e300])
def test_a_remote_that_asks_for_ever_is_asked_again_in_a_year(asked: float) -> None:
    assert backoff().failed(Busy("gone fishing", retry_after=asked)) == 366 * 86_400


@pytest.mark.parametrize("asked", [math.nan, -math.inf, -5.0])
def test_what_is_no_time_asks_for_nothing(asked: float) -> None:
    assert backoff().failed(Busy("gone fishing", retry_after=asked)) == 1
