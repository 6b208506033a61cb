"""What a timeout may be, the same for every call that takes one."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from localstore import Realm
from localstore.console import show_transfer
from localstore.testing.clock import ManualClock, environment
from localstore.timeouts import at_most
from tests.unit.session_kit import World, in_loop

Call = Callable[[Realm, Any], object]
FOR_EVER = [math.inf, 1e300, 10**400]
NO_TIMES = [True, False, "30", b"", dt.timedelta(seconds=30), Decimal(30), [1]]
NOT_POSITIVE = [-1, -0.001, -math.inf, -(10**400), math.nan]
SESSIONS: dict[str, Call] = {
    "upload": lambda realm, timeout: realm.sync_session.upload_all_local_changes(timeout),
    "upload async": lambda realm, timeout: in_loop(realm.sync_session.upload_all_local_changes_async(timeout)),
    "download": lambda realm, timeout: realm.sync_session.download_all_server_changes(timeout),
    "download async": lambda realm, timeout: in_loop(realm.sync_session.download_all_server_changes_async(timeout)),
    "console": lambda realm, timeout: show_transfer(realm.sync_session, timeout=timeout),
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


class TestWhatItComesTo:
    @pytest.mark.parametrize("timeout", [0.001, 1, 30.0, 86_400])
    def test_seconds(self, timeout: float) -> None:
        assert at_most(timeout) == timeout

    @pytest.mark.parametrize("timeout", [None, *FOR_EVER])
    def test_for_ever(self, timeout: float | None) -> None:
        assert at_most(timeout) is None

    @pytest.mark.parametrize("timeout", NO_TIMES)
    def test_what_is_no_number_is_refused_with_what_it_is(self, timeout: object) -> None:
        with pytest.raises(TypeError, match="timeout is a positive number of seconds, or None"):
            at_most(timeout)

    @pytest.mark.parametrize("timeout", [0, 0.0, *NOT_POSITIVE])
    def test_what_is_not_positive_is_refused(self, timeout: float) -> None:
        with pytest.raises(ValueError, match="positive"):
            at_most(timeout)

    def test_one_may_look_without_waiting_where_that_is_of_use(self) -> None:
        assert at_most(0, may_be_zero=True) == 0
        for timeout in NOT_POSITIVE:
            with pytest.raises(ValueError, match="number of seconds"):
                at_most(timeout, may_be_zero=True)


def test_a_countdown_ends_at_nothing() -> None:
    clock = ManualClock()
    left, for_ever = environment(clock).countdown(10), environment(clock).countdown(None)
    assert (left(), for_ever()) == (10, None)
    clock.advance(3)
    assert left() == 7
    clock.advance(30)
    assert (left(), for_ever()) == (0, None)


class TestEveryCall:
    @pytest.mark.parametrize("call", SESSIONS.values(), ids=SESSIONS)
    def test_of_a_session_takes_for_ever_and_refuses_nonsense(self, world: World, call: Call) -> None:
        realm = world.open()
        for timeout in FOR_EVER:
            assert call(realm, timeout)
        for timeout in NO_TIMES:
            with pytest.raises(TypeError, match="timeout"):
                call(realm, timeout)
        for timeout in (0, *NOT_POSITIVE):
            with pytest.raises(ValueError, match="timeout"):
                call(realm, timeout)

    def test_of_an_app_does(self, world: World) -> None:
        sync = world.device().app.sync
        calls: list[Callable[[Any], object]] = [
            sync.wait_for_sessions_to_terminate,
            lambda timeout: in_loop(sync.wait_for_sessions_to_terminate_async(timeout)),
        ]
        for call in calls:
            for timeout in (None, 0, *FOR_EVER):
                assert call(timeout)
            for timeout in NO_TIMES:
                with pytest.raises(TypeError, match="timeout"):
                    call(timeout)
            for timeout in NOT_POSITIVE:
                with pytest.raises(ValueError, match="timeout"):
                    call(timeout)

    def test_so_does_a_configuration_but_true_is_for_ever_there(self, world: World) -> None:
        device = world.device()
        for wait in (None, False, True, *FOR_EVER):
            assert device.configuration(wait_for_initial_remote_data=wait).remote_data_timeout is None
        for wait in NO_TIMES:
            if not isinstance(wait, bool):
                with pytest.raises(TypeError, match="wait_for_initial_remote_data"):
                    device.configuration(wait_for_initial_remote_data=wait)
        for wait in (0, *NOT_POSITIVE):
            with pytest.raises(ValueError, match="wait_for_initial_remote_data is a positive number"):
                device.configuration(wait_for_initial_remote_data=wait)
