"""Estimates of progress, after the figures that Realm's tests state: pure numbers, no session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.sync.progress import Meter, Progress, ProgressMode, Tracking

NOW, ALWAYS = ProgressMode.CURRENT_CHANGES, ProgressMode.INDEFINITELY
MOVES = st.lists(st.tuples(st.integers(0, 100), st.one_of(st.none(), st.integers(0, 200))), max_size=30)


def followed(mode: ProgressMode, meter: Meter, *moves: tuple[int, int | None]) -> list[float]:
    """What a listener hears that begins now, as so many bytes are moved and so many left."""
    tracking = Tracking(mode, meter)
    heard = [tracking.next(meter)]
    for byte_count, left in moves:
        meter.advance(byte_count, left)
        if tracking.is_over:
            break
        heard.append(tracking.next(meter))
    return [progress.estimate for progress in heard if progress is not None]


class TestOfCurrentChanges:
    def test_with_nothing_outstanding_it_is_complete_at_once(self) -> None:
        meter = Meter(left=0)
        tracking = Tracking(NOW, meter)
        assert tracking.next(meter) == Progress(1.0)
        assert tracking.is_over

    def test_it_rises_with_the_bytes(self) -> None:
        assert followed(NOW, Meter(left=400), (100, 300), (200, 100), (100, 0)) == [0.0, 0.25, 0.75, 1.0]

    def test_what_comes_later_is_not_counted(self) -> None:
        """60 of 501 bytes are done when somebody asks; then others come: 66 of 582."""
        assert followed(NOW, Meter(moved=60, left=441), (6, 516), (435, 81)) == [0.0, 6 / 441, 1.0]

    def test_it_is_over_when_what_was_outstanding_is_done_and_more_is_there(self) -> None:
        meter = Meter(left=100)
        tracking = Tracking(NOW, meter)
        meter.advance(100, 500)
        assert tracking.next(meter) == Progress(1.0)
        assert tracking.is_over

    def test_a_total_that_drops_is_taken_over(self) -> None:
        assert followed(NOW, Meter(left=400), (100, 100), (100, 0)) == [0.0, 0.5, 1.0]

    def test_nothing_is_said_before_the_remote_has_told_how_much_there_is(self) -> None:
        assert followed(NOW, Meter(), (0, None), (50, None), (50, 100), (100, 0)) == [0.5, 1.0]

    def test_an_adapter_that_never_tells_leads_from_nothing_to_done(self) -> None:
        assert followed(NOW, Meter(), (50, None), (50, None), (0, 0)) == [1.0]

    @given(st.integers(0, 300), MOVES)
    def test_it_never_goes_back_and_ends_with_one(self, left: int, moves: list[tuple[int, int | None]]) -> None:
        heard = followed(NOW, Meter(left=left), *moves, (0, 0))
        assert heard == sorted(heard)
        assert heard[-1] == 1.0
        assert heard.count(1.0) == 1


class TestIndefinitely:
    def test_new_data_lowers_it_but_not_to_nothing(self) -> None:
        assert followed(ALWAYS, Meter(left=100), (50, 50), (0, 150), (150, 0)) == [0.0, 0.5, 0.25, 1.0]

    def test_after_everything_was_done_the_next_starts_from_nothing(self) -> None:
        assert followed(ALWAYS, Meter(left=100), (100, 0), (0, 40), (10, 30), (30, 0)) == [0.0, 1.0, 0.0, 0.25, 1.0]

    def test_it_is_never_over(self) -> None:
        meter = Meter(left=0)
        tracking = Tracking(ALWAYS, meter)
        assert tracking.next(meter) == Progress(1.0)
        assert not tracking.is_over

    def test_the_same_is_not_said_twice(self) -> None:
        assert followed(ALWAYS, Meter(left=0), (0, 0), (0, 0)) == [1.0]

    def test_after_losing_the_remote_nothing_is_said_until_it_tells_again(self) -> None:
        meter = Meter(left=0)
        tracking = Tracking(ALWAYS, meter)
        tracking.next(meter)
        meter.lose_sight()
        assert tracking.next(meter) is None
        meter.advance(20, 60)
        assert tracking.next(meter) == Progress(0.25)

    @given(st.integers(0, 300), MOVES)
    def test_it_stays_between_nothing_and_one(self, left: int, moves: list[tuple[int, int | None]]) -> None:
        assert all(0.0 <= estimate <= 1.0 for estimate in followed(ALWAYS, Meter(left=left), *moves))


@pytest.mark.parametrize(("estimate", "complete"), [(0.0, False), (0.999, False), (1.0, True)])
def test_a_transfer_is_complete_at_one(estimate: float, complete: bool) -> None:
    assert Progress(estimate).is_transfer_complete is complete
