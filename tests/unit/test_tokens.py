"""Access tokens in sessions: renewed ahead of time, at a refusal, at opening; by Realm's rules, under a clock moved by hand."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore import ConnectionState, Realm, SessionState, User, UserState
from localstore.adapter import SyncAdapter, Tokens
from localstore.errors import Busy, Offline, OperationAborted, ProtocolError, Unauthorized
from localstore.sync.state import Event
from localstore.sync.token_life import Freshness, freshness, kept, seconds_until_due
from localstore.sync.token_use import TokenUse
from localstore.sync.tokens import adjusted
from localstore.testing.clock import ManualClock
from localstore.testing.faulty import Hang, LoseAnswer, Raise
from localstore.token_file import KeptTokens
from tests.unit.session_kit import PATIENCE, add, as_time_passes, eventually, in_background, in_loop, texts
from tests.unit.users_kit import EMMA, KEVIN, MINUTES, Users, is_connected

TOKENS = KeptTokens(access_token="a", refresh_token="r", issued_ms=1_000_000, expires_ms=2_000_000)


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    with Users(tmp_path / "data") as found:
        yield found


def stale_user(users: Users) -> User:
    """Somebody who logged in 31 minutes ago, in a program that was started just now."""
    app = users.app()
    app.login(EMMA)
    app.close()
    users.clock.advance(31 * MINUTES)
    user = users.app().current_user
    assert user is not None
    return user


class TestDeciding:
    @pytest.mark.parametrize(
        ("now_ms", "expected"),
        [
            (1_000_000, Freshness.FRESH),
            (1_799_999, Freshness.FRESH),
            (1_800_000, Freshness.DUE),
            (1_999_999, Freshness.DUE),
            (2_000_000, Freshness.STALE),
            (9_000_000, Freshness.STALE),
            (999_999, Freshness.DUE),  # the clock was set back: nobody knows how old it is
        ],
    )
    def test_a_token_is_due_at_four_fifths_of_its_life_and_stale_at_its_end(self, now_ms: int, expected: Freshness) -> None:
        assert freshness(TOKENS, now_ms) is expected

    def test_how_long_until_it_is_due(self) -> None:
        assert seconds_until_due(TOKENS, 1_000_000) == 800
        assert seconds_until_due(TOKENS, 1_900_000) == -100

    def test_an_answer_is_kept_by_this_devices_clock(self) -> None:
        answer = Tokens(user_id="emma", access_token="a", expires_in=1.5, refresh_token="r")
        assert kept(answer, 5_000) == dataclasses.replace(TOKENS, issued_ms=5_000, expires_ms=6_500)
        for much in (1e300, 1e307, 10**400):
            assert kept(dataclasses.replace(answer, expires_in=much), 0).expires_ms == 100 * 366 * 86_400_000

    def test_an_answer_that_is_none_is_refused(self) -> None:
        with pytest.raises(ProtocolError, match="it is a NoneType"):
            kept(None, 0)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"user_id": ""},
            {"user_id": "em\nma"},
            {"access_token": ""},
            {"refresh_token": None},
            {"expires_in": 0},
            {"expires_in": float("nan")},
            {"expires_in": float("inf")},
            {"expires_in": "soon"},
            {"expires_in": -(10**400)},
        ],
    )
    def test_an_answer_that_makes_no_sense_is_refused_and_not_quoted(self, wrong: dict[str, object]) -> None:
        answer = Tokens(user_id="emma", access_token="s3cret", expires_in=60, refresh_token="s3cret")
        with pytest.raises(ProtocolError, match="does not fit") as caught:
            kept(dataclasses.replace(answer, **wrong), 0)
        assert "s3cret" not in str(caught.value)

    def test_without_users_no_event_is_another(self) -> None:
        assert [adjusted(None, event) for event in Event] == list(Event)


class TestAheadOfTime:
    def test_a_token_is_renewed_at_four_fifths_of_its_life_without_disturbing_the_session(self, users: Users) -> None:
        realm = users.open(users.app(poll=3600).login(EMMA))
        assert is_connected(realm)
        session = realm.sync_session
        disturbances: list[object] = []
        session.on_connection_state_change(disturbances.append)
        assert users.clock.wait_for_sleepers(1, PATIENCE)
        users.clock.advance(24 * MINUTES)
        eventually(lambda: users.line.count("refresh") == 1 and users.line.count("connect") == 2)
        users.clock.advance(7 * MINUTES)  # the first token is not good any more
        add(realm, "with the new token")
        assert session.upload_all_local_changes(timeout=PATIENCE)
        assert session.state is SessionState.ACTIVE
        assert users.line.count("refresh") == 1
        assert disturbances == []

    def test_not_before(self, users: Users) -> None:
        realm = users.open(users.app().login(EMMA))
        assert is_connected(realm)
        users.clock.advance(23 * MINUTES)
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert users.line.count("refresh") == 0

    def test_one_that_fails_is_tried_again_later_and_does_no_harm(self, users: Users) -> None:
        users.line.break_next("refresh", Raise(Busy("later")))
        realm = users.open(users.app(poll=3600).login(EMMA))
        assert is_connected(realm)
        users.clock.wait_for_sleepers(1, PATIENCE)
        users.clock.advance(24 * MINUTES)
        eventually(lambda: users.line.count("refresh") == 1)
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert users.line.count("refresh") == 1, "not at every turn"
        eventually(lambda: (users.clock.next_wake() or 0) > 50)
        users.clock.advance(60)
        eventually(lambda: users.line.count("refresh") == 2)
        assert is_connected(realm)
        assert users.told == []

    def test_one_whose_life_is_nearly_nothing_is_not_renewed_without_end(self, users: Users) -> None:
        user = users.app().login(EMMA)
        held = user.tokens.held
        assert held is not None
        user.tokens._change(held, dataclasses.replace(held, expires_ms=held.issued_ms + 2))
        users.clock.advance(1)
        assert not user.tokens.renew_if_due(lambda: None)
        assert user.tokens.seconds_until_due() == 4

    def test_one_that_hangs_delays_nothing(self, users: Users) -> None:
        users.line.hold("refresh")
        user = users.app(poll=3600).login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        users.clock.wait_for_sleepers(1, PATIENCE)
        users.clock.advance(24 * MINUTES)
        eventually(lambda: users.line.held("refresh"))
        add(realm, "meanwhile")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        realm.sync_session.pause()
        realm.sync_session.resume()
        assert is_connected(realm)
        user.log_out()
        assert realm.sync_session.state is SessionState.INACTIVE
        realm.close()

    def test_the_sessions_of_a_user_share_one(self, users: Users) -> None:
        user = users.app(poll=3600).login(EMMA)
        realms = [users.open(user, name=f"{number}.db", partition=f"p{number}") for number in range(5)]
        assert all(is_connected(realm) for realm in realms)
        users.clock.wait_for_sleepers(5, PATIENCE)
        users.clock.advance(24 * MINUTES)
        eventually(lambda: users.line.count("connect") == 10)
        assert users.line.count("refresh") == 1


class TestOpening:
    def test_with_a_good_token_a_session_is_active_at_once(self, users: Users) -> None:
        realm = users.open(users.app().login(EMMA))
        assert realm.sync_session.state is SessionState.ACTIVE

    def test_with_an_expired_one_it_waits_for_another(self, users: Users) -> None:
        user = stale_user(users)
        users.line.hold("refresh")
        realm = users.open(user)
        assert realm.sync_session.state is SessionState.WAITING_FOR_ACCESS_TOKEN
        add(realm, "meanwhile")
        assert realm.sync_session.state is SessionState.WAITING_FOR_ACCESS_TOKEN
        waiting = in_background(realm.sync_session.upload_all_local_changes)
        users.line.let_go("refresh")
        eventually(lambda: realm.sync_session.state is SessionState.ACTIVE)
        assert waiting.result(PATIENCE)

    def test_resuming_with_an_expired_one_waits_as_well(self, users: Users) -> None:
        realm = users.open(users.app().login(EMMA))
        realm.sync_session.pause()
        users.clock.advance(31 * MINUTES)
        users.line.hold("refresh")
        realm.sync_session.resume()
        assert realm.sync_session.state is SessionState.WAITING_FOR_ACCESS_TOKEN
        users.line.let_go("refresh")
        assert is_connected(realm)

    def test_offline_it_does_not_block_and_goes_on_with_the_old_token(self, users: Users) -> None:
        user = stale_user(users)
        users.remote.go_offline()
        realm = users.open(user)
        eventually(lambda: realm.sync_session.state is SessionState.ACTIVE)
        assert users.told == []
        users.remote.go_online()
        realm.sync_session.reconnect()
        assert is_connected(realm)
        assert users.line.count("refresh") >= 2

    def test_a_clock_that_is_31_minutes_fast_waits_exactly_once(self, users: Users) -> None:
        clock = ManualClock()
        app = users.app(clock=clock)
        user = app.login(EMMA)
        clock.set(clock.now_ms() + 31 * 60_000)
        realm = users.open(user)
        session = realm.sync_session
        assert is_connected(realm)
        session.pause()
        session.resume()
        assert session.state is SessionState.ACTIVE
        assert is_connected(realm)
        assert users.line.count("refresh") == 1

    @pytest.mark.parametrize("hours", [-24, 24])
    def test_a_clock_that_is_off_ends_in_no_loop(self, users: Users, hours: int) -> None:
        clock = ManualClock()
        user = users.app(clock=clock).login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        clock.set(clock.now_ms() + hours * 3_600_000)
        for _ in range(5):
            assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert users.line.count("refresh") <= 1

    def test_a_hanging_renewal_blocks_neither_pausing_nor_closing(self, users: Users) -> None:
        user = stale_user(users)
        users.line.break_down(refresh=Hang())
        realm = users.open(user)
        eventually(lambda: users.line.count("refresh"))
        realm.sync_session.pause()
        assert realm.sync_session.state is SessionState.PAUSED
        realm.sync_session.resume()
        assert realm.sync_session.state is SessionState.WAITING_FOR_ACCESS_TOKEN
        realm.close()
        assert user.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        user.log_out()
        user.app.close()

    def test_a_renewal_that_comes_to_its_end_does_not_end_a_pause(self, users: Users) -> None:
        user = stale_user(users)
        users.line.hold("refresh")
        realm = users.open(user)
        eventually(lambda: users.line.held("refresh"))
        realm.sync_session.pause()
        users.line.let_go("refresh")
        beside = users.open(user, name="beside.db")
        assert is_connected(beside)
        assert realm.sync_session.state is SessionState.PAUSED
        assert realm.sync_session.connection_state is ConnectionState.DISCONNECTED

    def test_a_dying_session_whose_file_is_opened_with_an_expired_one_waits_as_well(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        users.line.hold("push")
        add(realm, "unsent")
        eventually(lambda: users.line.held("push"))
        session = realm.sync_session
        realm.close()
        users.line.hold("refresh")
        users.clock.advance(31 * MINUTES)
        again = users.open(user)
        assert again.sync_session is session
        assert session.state is SessionState.WAITING_FOR_ACCESS_TOKEN
        eventually(lambda: not users.line.held("push"), "the call to be broken off")
        users.line.let_go("push")
        users.line.let_go("refresh")
        assert session.upload_all_local_changes(timeout=PATIENCE)
        assert session.state is SessionState.ACTIVE
        assert len(users.remote.changesets()) == 1

    def test_a_renewal_that_finds_no_answer_in_time_is_given_up(self, users: Users) -> None:
        user = stale_user(users)
        users.line.break_next("refresh", Hang())
        realm = users.open(user)
        eventually(lambda: users.line.count("refresh"))
        as_time_passes(users.clock, 130, lambda: realm.sync_session.state is SessionState.ACTIVE)
        assert is_connected(realm)

    def test_logging_out_while_it_waits(self, users: Users) -> None:
        user = stale_user(users)
        users.line.hold("refresh")
        realm = users.open(user)
        waiting = in_background(lambda: realm.sync_session.download_all_server_changes())
        eventually(lambda: users.line.held("refresh") and len(realm.sync_session._waits) == 1)
        user.log_out()
        assert realm.sync_session.state is SessionState.INACTIVE
        with pytest.raises(OperationAborted):
            waiting.result(PATIENCE)
        users.line.let_go("refresh")
        user.app.login(EMMA)
        session = realm.sync_session  # which may have to wait for what was broken off to let go of the tokens
        as_time_passes(users.clock, 1, lambda: session.connection_state is ConnectionState.CONNECTED)
        assert user.state is UserState.LOGGED_IN

    def test_logging_in_anew_while_it_waits(self, users: Users) -> None:
        user = stale_user(users)
        users.line.hold("refresh")
        realm = users.open(user)
        eventually(lambda: users.line.held("refresh"))
        user.app.login(EMMA)
        users.line.let_go("refresh")
        assert is_connected(realm)
        assert user.state is UserState.LOGGED_IN


class TestARenewalThatHangs:
    """Nobody has to wait for the end of its time who knows better."""

    def waiting(self, users: Users, *, stubborn: bool = False) -> tuple[User, Realm]:
        user = stale_user(users)
        users.line.hold("refresh", stubborn=stubborn)
        realm = users.open(user)
        eventually(lambda: users.line.held("refresh"))
        return user, realm

    @pytest.mark.parametrize("stubborn", [False, True])
    def test_is_broken_off_by_a_wish_to_reconnect_and_tried_anew(self, users: Users, stubborn: bool) -> None:
        user, realm = self.waiting(users, stubborn=stubborn)
        let_go = users.line.hold_no_others("refresh")
        user.app.sync.reconnect()
        assert is_connected(realm)
        assert users.line.count("refresh") == 1  # the first one never came so far
        assert realm.sync_session.last_error is None
        let_go()

    @pytest.mark.parametrize("stubborn", [False, True])
    def test_is_broken_off_by_a_new_login_and_needed_no_more(self, users: Users, stubborn: bool) -> None:
        user, realm = self.waiting(users, stubborn=stubborn)
        user.app.login(EMMA)
        assert is_connected(realm)
        assert users.line.count("refresh") == 0
        users.line.let_go("refresh")

    def test_is_broken_off_by_logging_out(self, users: Users) -> None:
        user, _ = self.waiting(users)
        user.log_out()
        eventually(lambda: users.line.held("refresh") == 0)

    def test_is_given_up_in_time_though_it_cannot_be_cancelled(self, users: Users) -> None:
        _, realm = self.waiting(users, stubborn=True)
        let_go = users.line.hold_no_others("refresh")
        as_time_passes(users.clock, 130, lambda: realm.sync_session.state is SessionState.ACTIVE)
        assert is_connected(realm)
        let_go()

    def test_after_a_refusal_is_broken_off_as_well(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        users.remote.expire_access_tokens()
        users.line.hold("refresh", stubborn=True)
        user.app.sync.reconnect()
        eventually(lambda: users.line.held("refresh"))
        add(realm, "a")
        let_go = users.line.hold_no_others("refresh")
        user.app.sync.reconnect()
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        let_go()

    def test_of_nobody_is_no_matter_of_reconnecting(self, users: Users) -> None:
        realm = users.open(users.app().login(EMMA))
        assert is_connected(realm)
        users.app().sync.reconnect()
        assert users.line.count("refresh") == 0


class TestRefusedTokens:
    @pytest.mark.parametrize("call", ["connect", "push", "pull"])
    def test_a_token_that_is_refused_is_renewed_once_and_sync_goes_on(self, users: Users, call: str) -> None:
        realm = users.open(users.app().login(EMMA))
        users.line.break_next(call, Raise(Unauthorized("expired")))
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert realm.sync_session.state is SessionState.ACTIVE
        assert users.line.count("refresh") <= 1
        assert users.told == []

    def test_a_session_that_is_closing_goes_on_closing(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        users.line.hold("push")
        add(realm, "the last")
        eventually(lambda: users.line.held("push"))
        session = realm.sync_session
        realm.close()
        assert session.state is SessionState.DYING
        users.remote.expire_access_tokens()
        users.line.let_go("push")
        assert user.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        assert len(users.remote.changesets()) == 1

    def test_a_refusal_that_comes_late_is_not_about_the_next_log_in(self, users: Users) -> None:
        """The end of a renewal is told in the background thread, and others log in in theirs."""
        user = users.app().login(EMMA)
        realm = users.open(user)
        user.log_out()
        user.app.login(EMMA)
        realm.sync_session.handle(Event.TOKEN_REFUSED, Unauthorized("The user is logged out."))
        assert is_connected(realm)
        assert users.told == []

    @pytest.mark.parametrize("times", [2, 4])
    def test_a_log_in_that_comes_before_the_error_about_the_last_one_is_not_lost(self, users: Users, times: int) -> None:
        realm = users.open(users.app().login(EMMA))
        assert is_connected(realm)
        session = realm.sync_session
        users.line.hold("refresh")
        users.line.break_next("pull", *[Raise(Unauthorized("expired"))] * times)
        waiting = in_background(lambda: session.download_all_server_changes())
        eventually(lambda: users.line.held("refresh"))
        session.handle(Event.LOG_IN)  # as of another process
        users.line.let_go("refresh")
        if times == 2:  # the old one and its renewal
            assert waiting.result(PATIENCE)
            assert (session.state, users.told) == (SessionState.ACTIVE, [])
        else:  # the new one, too
            with pytest.raises(Unauthorized):
                waiting.result(PATIENCE)
            eventually(lambda: users.kinds == ["Unauthorized"])
            assert session.state is SessionState.INACTIVE

    def test_a_refused_renewal_logs_the_user_out(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        users.line.hold("pull")
        waiting = in_background(lambda: realm.sync_session.download_all_server_changes())
        eventually(lambda: len(realm.sync_session._waits) == 1)
        users.remote.shut_out("emma")
        users.line.let_go("pull")
        with pytest.raises(Unauthorized):
            waiting.result(PATIENCE)
        eventually(lambda: users.kinds == ["Unauthorized"])
        assert users.told[0].is_fatal
        assert (user.state, realm.sync_session.state) == (UserState.LOGGED_OUT, SessionState.INACTIVE)
        assert isinstance(realm.sync_session.last_error, Unauthorized)
        assert user.app.current_user is None

    def test_so_it_does_at_opening(self, users: Users) -> None:
        user = stale_user(users)
        users.remote.shut_out("emma")
        realm = users.open(user)
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        eventually(lambda: users.kinds == ["Unauthorized"])
        assert user.state is UserState.LOGGED_OUT

    def test_all_sessions_of_the_user_hear_of_it_and_paused_ones_stay_paused(self, users: Users) -> None:
        app = users.app()
        user, other = app.login(EMMA), app.login(KEVIN)
        realms = [users.open(user, name=f"{number}.db") for number in range(3)]
        kevins = users.open(other)
        assert all(is_connected(realm) for realm in [*realms, kevins])
        realms[2].sync_session.pause()
        users.remote.shut_out("emma")
        realms[0].sync_session.reconnect()
        eventually(lambda: len(users.told) == 2)
        assert [realm.sync_session.state.name for realm in realms] == ["INACTIVE", "INACTIVE", "PAUSED"]
        assert kevins.sync_session.state is SessionState.ACTIVE

    def test_the_next_login_brings_them_back_with_what_was_written_meanwhile(self, users: Users) -> None:
        app = users.app()
        realm = users.open(app.login(EMMA))
        assert is_connected(realm)
        users.remote.shut_out("emma")
        realm.sync_session.reconnect()
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        add(realm, "meanwhile")
        users.remote.add_user("emma", EMMA)
        app.login(EMMA)
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert realm.sync_session.last_error is None

    def test_a_remote_that_refuses_the_new_token_too_means_this_realm_and_not_the_user(self, users: Users) -> None:
        user = users.app().login(EMMA)
        users.line.break_down(connect=Raise(Unauthorized("not this partition")))
        realm = users.open(user)
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        eventually(lambda: users.kinds == ["Unauthorized"])
        assert user.state is UserState.LOGGED_IN
        assert users.line.count("refresh") == 1

    @pytest.mark.parametrize("error", [Offline("no network"), Busy("503")])
    def test_a_renewal_that_fails_otherwise_leaves_it_to_the_backoff(self, users: Users, error: Exception) -> None:
        realm = users.open(users.app().login(EMMA))
        assert is_connected(realm)
        eventually(lambda: users.line.count("watch"), "the session to rest")
        users.remote.expire_access_tokens()
        users.line.break_next("refresh", Raise(error))
        add(realm, "a")  # and not reconnect(), which would cut the first wait short
        eventually(lambda: type(realm.sync_session.last_error) is type(error))
        assert realm.sync_session.state is SessionState.ACTIVE
        assert realm.sync_session.connection_state is ConnectionState.DISCONNECTED
        eventually(lambda: users.clock.next_wake() == 1)
        users.clock.advance(1)
        assert is_connected(realm)
        assert users.told == []

    def test_an_answer_that_got_lost_costs_nobody_the_login(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        users.remote.expire_access_tokens()
        users.line.break_next("refresh", LoseAnswer(Offline("cut off")), LoseAnswer(Offline("cut off")))
        realm.sync_session.reconnect()
        as_time_passes(users.clock, 10, lambda: users.line.count("refresh") == 3)
        assert is_connected(realm)
        assert user.state is UserState.LOGGED_IN

    def test_many_sessions_that_are_refused_at_once_renew_once(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realms = [users.open(user, name=f"{number}.db", partition=f"p{number}") for number in range(8)]
        assert all(is_connected(realm) for realm in realms)
        users.remote.expire_access_tokens()
        for realm in realms:
            add(realm, "a")
        assert all(realm.sync_session.upload_all_local_changes(timeout=PATIENCE) for realm in realms)
        assert users.line.count("refresh") == 1

    def test_an_answer_that_is_no_answer_keeps_no_session_waiting(self, users: Users) -> None:
        user = stale_user(users)
        users.remote.refresh = lambda token: None  # type: ignore[method-assign, assignment, return-value]
        realm = users.open(user)
        eventually(lambda: realm.sync_session.state is not SessionState.WAITING_FOR_ACCESS_TOKEN)

    def test_an_adapter_that_cannot_be_made_keeps_no_session_waiting(self, users: Users) -> None:
        made = users.remote.adapter
        user = stale_user(users)
        assert user.app.current_user is user

        def broken() -> SyncAdapter:
            raise RuntimeError("no driver")

        users.remote.adapter = broken  # type: ignore[method-assign, assignment]
        realm = users.open(user)
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        eventually(lambda: users.kinds == ["ProtocolError"])
        users.remote.adapter = made  # type: ignore[method-assign]

    def test_tokens_that_another_process_got_are_not_taken_by_one_who_logged_out(self, users: Users) -> None:
        user = users.app().login(EMMA)
        held = user.tokens.held
        assert held is not None
        user.tokens.hold(None)
        assert not user.tokens._change(held, TOKENS)
        assert user.tokens.held is None

    def test_a_refusal_of_a_token_that_a_login_has_replaced_means_neither_realm_nor_user(self, users: Users) -> None:
        app = users.app()
        use = TokenUse(app.login(EMMA).tokens, lambda: None)
        use.take()
        use._has_renewed = True
        app.login(EMMA)
        error = Unauthorized("of the log-in before")
        assert in_loop(use.answer_to(error)) is None
        use.take()
        use._has_renewed = True
        assert in_loop(use.answer_to(error)) is error

    def test_a_token_of_another_user_is_not_used(self, users: Users) -> None:
        user = stale_user(users)
        users.remote.refresh = lambda token: Tokens(  # type: ignore[method-assign]
            user_id="mallory", access_token="x", expires_in=60, refresh_token="y"
        )
        realm = users.open(user)
        eventually(lambda: realm.sync_session.state is not SessionState.WAITING_FOR_ACCESS_TOKEN)
        assert "mallory" not in users.kept.read_text()


class TestSeveralProcesses:
    """Apps of one id and directory know nothing of each other but what is in the file."""

    def test_one_that_is_late_takes_the_token_that_another_got(self, users: Users) -> None:
        first, second = users.app(), users.app()
        one = users.open(first.login(EMMA), name="one.db")
        user = second.current_user
        assert user is not None
        other = users.open(user, name="other.db")
        assert is_connected(one)
        assert is_connected(other)
        users.remote.expire_access_tokens()
        for realm in (one, other, one, other):
            add(realm, "a")
            uploaded = in_background(realm.sync_session.upload_all_local_changes)
            eventually(lambda done=uploaded.done: users.clock.advance(0.1) or done())  # one may ask while the other lets go
            assert uploaded.result() is True
        assert users.line.count("refresh") == 1
        assert users.remote.logged_in() == ["emma"]

    def test_one_waits_while_another_renews(self, users: Users) -> None:
        first, second = users.app(), users.app()
        first.login(EMMA)
        users.clock.advance(31 * MINUTES)
        users.line.hold("refresh")
        realms = []
        for app in (first, second):
            user = app.current_user
            assert user is not None
            realms.append(users.open(user, name=f"{len(realms)}.db"))
        eventually(lambda: users.line.held("refresh") == 1)
        users.line.let_go("refresh")
        eventually(lambda: users.clock.advance(1) or all(r.sync_session.state is SessionState.ACTIVE for r in realms))
        assert users.line.count("refresh") == 1

    def test_logging_out_in_one_ends_the_sessions_of_another(self, users: Users) -> None:
        first, second = users.app(), users.app()
        first.login(EMMA)
        user = second.current_user
        assert user is not None
        realm = users.open(user)
        assert is_connected(realm)
        first.all_users()[0].log_out()
        eventually(lambda: users.remote.logged_in() == [])
        realm.sync_session.reconnect()
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        eventually(lambda: user.state is UserState.LOGGED_OUT)
        first.login(EMMA)
        assert second.current_user is user
        assert is_connected(realm)

    def test_two_that_log_in_at_the_same_time_lose_nothing(self, users: Users) -> None:
        first, second = users.app(), users.app()
        waiting = [in_background(lambda: first.login(EMMA)), in_background(lambda: second.login(KEVIN))]
        for one in waiting:
            one.result(PATIENCE)
        assert {user.id for user in users.app().all_users()} == {"emma", "kevin"}


def test_a_realm_is_not_disturbed_by_the_renewal_for_another(users: Users) -> None:
    user = users.app().login(EMMA)
    one, other = (users.open(user, name=f"{number}.db", partition=f"p{number}") for number in range(2))
    for realm in (one, other):
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)  # none of them has still to pull
    lost: list[object] = []
    other.sync_session.on_connection_state_change(lost.append)
    users.line.break_next("pull", Raise(Unauthorized("expired")))
    one.sync_session.reconnect()
    eventually(lambda: users.line.count("refresh") == 1)
    add(other, "a")
    assert other.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert lost == []
    assert texts(other) == ["a"]


class TestBreakingIt:
    def test_a_disk_that_takes_no_token_leaves_it_to_the_backoff(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        before = users.kept.read_bytes()
        in_the_way = users.kept.with_name("users.new")
        in_the_way.mkdir()
        users.remote.expire_access_tokens()
        realm.sync_session.reconnect()
        eventually(lambda: isinstance(realm.sync_session.last_error, Busy))
        assert realm.sync_session.state is SessionState.ACTIVE
        assert users.kept.read_bytes() == before
        in_the_way.rmdir()
        as_time_passes(users.clock, 10, lambda: realm.sync_session.connection_state is ConnectionState.CONNECTED)
        assert user.state is UserState.LOGGED_IN
        assert users.told == []

    def test_a_program_that_dies_before_it_has_kept_the_new_token_is_still_logged_in(self, users: Users) -> None:
        user = stale_user(users)
        held = user.tokens.held
        assert held is not None
        users.remote.refresh(held.refresh_token)  # answered, and never written down
        realm = users.open(user)
        assert is_connected(realm)
        assert user.state is UserState.LOGGED_IN

    @pytest.mark.parametrize("end", ["log_out", "remove"])
    def test_an_error_handler_may_log_out(self, users: Users, end: str) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user, error_handler=lambda session, error: getattr(user, end)())
        assert is_connected(realm)
        users.line.break_down(pull=Raise(ProtocolError("nonsense")))
        realm.sync_session.reconnect()
        eventually(lambda: user.state is not UserState.LOGGED_IN)
        eventually(lambda: users.remote.logged_in() == [])
        assert realm.sync_session.state is SessionState.INACTIVE

    def test_an_adapter_that_cancels_itself_is_a_bug_in_it(self, users: Users) -> None:
        user = stale_user(users)
        users.line.break_next("refresh", Raise(asyncio.CancelledError()))  # type: ignore[arg-type]
        realm = users.open(user)
        eventually(lambda: realm.sync_session.state is SessionState.ACTIVE)
        assert is_connected(realm)

    def test_a_login_that_finds_no_answer_in_time_is_offline(self, users: Users) -> None:
        app = users.app()
        users.line.break_down(log_in=Hang())
        waiting = in_background(lambda: app.login(EMMA))
        eventually(lambda: users.line.count("log_in"))
        as_time_passes(users.clock, 130, waiting.done)
        with pytest.raises(Offline, match="did not answer within 120 s"):
            waiting.result(PATIENCE)

    def test_closing_the_app_in_the_middle_of_a_renewal_loses_nothing(self, users: Users) -> None:
        user = stale_user(users)
        users.line.hold("refresh")
        realm = users.open(user)
        eventually(lambda: users.line.held("refresh"))
        user.app.close()
        realm.close()
        users.line.let_go("refresh")
        again = users.app().current_user
        assert again is not None
        assert is_connected(users.open(again))

    def test_a_file_with_logins_that_vanishes_logs_out_and_keeps_the_data(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        users.kept.unlink()
        users.remote.expire_access_tokens()
        realm.sync_session.reconnect()
        eventually(lambda: user.state is UserState.LOGGED_OUT)
        add(realm, "kept")
        assert app.login(EMMA) is user
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
