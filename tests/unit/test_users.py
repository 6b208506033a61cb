"""Users of an app: logging in and out, who is current, what stays on the device, by Realm's rules."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localstore import App, Credentials, Realm, SessionState, SyncConfiguration, User, UserState
from localstore.adapter import Tokens
from localstore.errors import (
    LocalStoreError,
    NotLoggedIn,
    Offline,
    OperationAborted,
    StoreBusy,
    StoreUnusable,
    SyncError,
    Unauthorized,
    UserRemoved,
)
from localstore.sync.session import SyncSession
from localstore.sync.state import Event
from localstore.testing.faulty import Hang, Raise
from localstore.testing.memory import MemoryRemote
from localstore.token_file import TokenFile, UserTable
from tests.unit.session_kit import PATIENCE, Note, add, as_time_passes, eventually, in_background, in_loop, sql, texts, waiting
from tests.unit.users_kit import EMMA, KEVIN, Users, is_connected


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    with Users(tmp_path / "data") as found:
        yield found


class TestLoggingIn:
    def test_a_user_has_the_id_of_the_remote(self, users: Users) -> None:
        user = users.app().login(EMMA)
        assert (user.id, user.provider, user.state) == ("emma", "email_password", UserState.LOGGED_IN)

    def test_it_works_in_any_event_loop(self, users: Users) -> None:
        app = users.app()
        assert in_loop(app.login_async(EMMA)) is app.current_user

    def test_the_same_id_is_the_same_object(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        assert app.login(EMMA) is user
        user.log_out()
        assert app.login(EMMA) is user
        assert app.all_users() == [user]

    def test_several_credentials_may_lead_to_one_user(self, users: Users) -> None:
        key = Credentials.api_key("emmas-key")
        users.remote.add_user("emma", key)
        app = users.app()
        assert app.login(EMMA) is app.login(key)
        assert app.login(key).provider == "api_key"

    def test_a_wrong_password_is_unauthorized_and_nobody_is_logged_in(self, users: Users) -> None:
        app = users.app()
        with pytest.raises(Unauthorized, match="does not take these credentials"):
            app.login(Credentials.email_password("emma@example.com", "guessed"))
        assert app.current_user is None
        assert app.all_users() == []

    def test_offline_it_says_so(self, users: Users) -> None:
        users.remote.go_offline()
        with pytest.raises(Offline):
            users.app().login(EMMA)

    def test_logging_in_anew_ends_the_login_before_at_the_remote(self, users: Users) -> None:
        app = users.app()
        app.login(EMMA)
        app.login(EMMA)
        eventually(lambda: users.remote.logged_in() == ["emma"])

    def test_a_login_that_gets_the_same_refresh_token_is_not_ended_with_the_one_before(self, users: Users) -> None:
        users.remote.log_in = lambda credentials: Tokens(  # type: ignore[method-assign]
            user_id="emma", access_token="access", expires_in=60, refresh_token="one-per-user"
        )
        app = users.app()
        app.login(EMMA)
        app.login(EMMA)
        app.close()
        assert users.line.count("log_out") == 0

    def test_a_refusal_of_older_tokens_that_comes_late_does_not_end_it(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        older = user.tokens.held
        assert older is not None
        app.login(EMMA)
        app.users.refused("emma", older, Unauthorized("too old"))
        assert user.state is UserState.LOGGED_IN
        assert is_connected(realm)
        assert users.told == []

    def test_closing_the_app_ends_a_login_that_hangs(self, users: Users) -> None:
        app = users.app()
        users.line.break_down(log_in=Hang())
        waiting = in_background(lambda: app.login(EMMA))
        eventually(lambda: users.line.count("log_in"))
        app.close()
        with pytest.raises(OperationAborted):
            waiting.result(PATIENCE)

    def test_one_that_cannot_be_cancelled_holds_nobody_up_longer_than_its_time(self, users: Users) -> None:
        app = users.app()
        users.line.hold("log_in", stubborn=True)
        waiting = in_background(lambda: app.login(EMMA))
        eventually(lambda: users.line.held("log_in"))
        as_time_passes(users.clock, 130, waiting.done)
        with pytest.raises(Offline, match="did not answer within 120 s"):
            waiting.result(PATIENCE)
        users.line.let_go("log_in")

    def test_it_does_not_wait_for_its_line_to_be_closed(self, users: Users) -> None:
        users.line.hold("close", stubborn=True)
        assert users.app().login(EMMA).id == "emma"
        eventually(lambda: users.line.held("close"))
        users.line.let_go("close")

    def test_a_bug_in_the_adapter_is_named(self, users: Users) -> None:
        users.line.break_down(log_in=Raise(RuntimeError("oops")))
        with pytest.raises(LocalStoreError, match="_LineAdapter failed with RuntimeError: oops"):
            users.app().login(EMMA)

    def test_the_background_thread_cannot_wait_for_itself(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        said = []

        def handler(session: object, error: object) -> None:
            try:
                app.login(KEVIN)
            except LocalStoreError as error:
                said.append(str(error))

        realm = users.open(user, error_handler=handler)
        assert is_connected(realm)
        users.remote.shut_out("emma")
        realm.sync_session.reconnect()
        eventually(lambda: said)
        assert "cannot wait for itself" in said[0]


class TestAnonymous:
    def test_one_who_is_logged_in_is_taken_again_without_the_network(self, users: Users) -> None:
        app = users.app()
        user = app.login(Credentials.anonymous())
        app.login(EMMA)
        users.remote.go_offline()
        assert app.login(Credentials.anonymous()) is user
        assert app.current_user is user

    def test_a_new_one_can_be_asked_for(self, users: Users) -> None:
        app = users.app()
        assert app.login(Credentials.anonymous()) is not app.login(Credentials.anonymous(reuse_existing=False))

    def test_logging_out_removes_the_user(self, users: Users) -> None:
        app = users.app()
        user = app.login(Credentials.anonymous())
        with users.open(user, stop_policy="immediately") as realm:
            path = realm.path
        user.log_out()
        assert user.state is UserState.REMOVED
        assert app.all_users() == []
        eventually(lambda: not path.exists())
        eventually(lambda: users.remote.logged_in() == [])

    def test_two_threads_that_log_one_out_at_once_both_succeed(self, users: Users) -> None:
        app = users.app()
        user = app.login(Credentials.anonymous())
        users.open(user)
        for logging_out in [in_background(user.log_out) for _ in range(4)]:
            logging_out.result(PATIENCE)
        assert user.state is UserState.REMOVED

    def test_one_whom_the_remote_refuses_keeps_the_data(self, users: Users) -> None:
        user = users.app().login(Credentials.anonymous())
        realm = users.open(user)
        assert is_connected(realm)
        users.remote.shut_out(user.id)
        realm.sync_session.reconnect()
        eventually(lambda: user.state is UserState.LOGGED_OUT)
        add(realm, "kept")
        assert texts(realm) == ["kept"]


class TestWhoIsCurrent:
    def test_nobody_at_first(self, users: Users) -> None:
        assert users.app().current_user is None

    def test_who_logged_in_last(self, users: Users) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        assert app.current_user is kevin
        assert app.all_users() == [kevin, emma]

    def test_switching(self, users: Users) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        app.switch_user(emma)
        assert app.current_user is emma
        assert app.all_users() == [emma, kevin]

    def test_switching_to_one_who_is_logged_out_is_refused(self, users: Users) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        emma.log_out()
        with pytest.raises(NotLoggedIn, match="'emma' is logged out"):
            app.switch_user(emma)
        assert app.current_user is kevin

    def test_switching_to_one_of_another_app_is_refused(self, users: Users) -> None:
        with pytest.raises(ValueError, match="is of the app 'other'"):
            users.app().switch_user(users.app("other").login(EMMA))

    def test_switching_to_no_user_is_refused(self, users: Users) -> None:
        with pytest.raises(TypeError, match="not of type str"):
            users.app().switch_user("emma")  # type: ignore[arg-type]

    def test_after_a_logout_the_one_used_before(self, users: Users) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        anonymous = app.login(Credentials.anonymous())
        app.switch_user(emma)
        emma.log_out()
        assert app.current_user is anonymous
        anonymous.log_out()
        assert app.current_user is kevin
        kevin.log_out()
        assert app.current_user is None
        assert app.all_users() == [emma, kevin]

    def test_all_of_it_survives_a_restart_offline(self, users: Users) -> None:
        app = users.app()
        app.login(EMMA)
        app.login(KEVIN).log_out()
        app.close()
        users.remote.go_offline()
        again = users.app()
        assert again.current_user is not None
        assert again.current_user.id == "emma"
        assert [(user.id, user.state.name) for user in again.all_users()] == [("kevin", "LOGGED_OUT"), ("emma", "LOGGED_IN")]
        with users.open(again.current_user) as realm:
            add(realm, "offline")
            assert realm.sync_session.state is SessionState.ACTIVE

    def test_other_apps_have_users_of_their_own(self, users: Users) -> None:
        users.app().login(EMMA)
        assert users.app("other").all_users() == []


class TestLoggingOut:
    def test_sessions_end_and_waits_are_broken_off(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        users.line.hold("push")
        add(realm, "unsent")
        upload = in_background(realm.sync_session.upload_all_local_changes)
        eventually(lambda: users.line.held("push") and waiting(realm.sync_session))
        user.log_out()
        assert (user.state, realm.sync_session.state) == (UserState.LOGGED_OUT, SessionState.INACTIVE)
        with pytest.raises(OperationAborted, match="ended by logging out"):
            upload.result(PATIENCE)
        assert texts(realm) == ["unsent"]
        users.line.let_go("push")

    def test_the_connection_ends_and_calls_back_before_it_returns(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        seen: list[tuple[str, str]] = []
        realm.sync_session.on_connection_state_change(
            lambda change: seen.append((change.new_state.value, threading.current_thread().name))
        )
        user.log_out()
        assert seen == [("disconnected", threading.current_thread().name)]
        assert users.told == []

    def test_a_session_that_still_uploads_for_a_closed_realm_ends(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        session = realm.sync_session
        users.line.hold("push")
        add(realm, "unsent")
        eventually(lambda: users.line.held("push"))
        realm.close()
        assert session.state is SessionState.DYING
        user.log_out()
        assert session.state is SessionState.INACTIVE
        assert user.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        users.line.let_go("push")
        with users.open(users.app().login(EMMA)) as again:
            assert again.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert len(users.remote.changesets()) == 1

    @pytest.mark.parametrize("wait", [SyncSession.upload_all_local_changes, SyncSession.download_all_server_changes])
    def test_a_wait_that_begins_afterwards_runs_out_of_time_or_ends_after_the_next_login(
        self, users: Users, wait: Callable[..., bool]
    ) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        user.log_out()
        add(realm, "a")
        assert wait(realm.sync_session, 0.01) is False
        waits = in_background(lambda: wait(realm.sync_session))
        eventually(lambda: waiting(realm.sync_session) >= 1)
        app.login(EMMA)
        assert waits.result(PATIENCE) is True

    def test_unsent_data_goes_out_after_the_next_login(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        user.log_out()
        add(realm, "while logged out")
        assert len(realm.pending()) == 1
        app.login(EMMA)
        assert realm.sync_session.state is SessionState.ACTIVE
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)

    def test_paused_sessions_stay_paused_through_logout_and_login(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        realm.sync_session.pause()
        user.log_out()
        assert realm.sync_session.state is SessionState.PAUSED
        app.login(EMMA)
        assert realm.sync_session.state is SessionState.PAUSED
        realm.sync_session.resume()
        assert is_connected(realm)

    def test_resuming_while_logged_out_waits_for_the_next_login(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        realm.sync_session.pause()
        user.log_out()
        realm.sync_session.resume()
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        eventually(lambda: users.kinds == ["Unauthorized"])
        app.login(EMMA)
        assert is_connected(realm)

    def test_other_users_are_not_touched(self, users: Users) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        realm = users.open(kevin)
        emma.log_out()
        assert kevin.state is UserState.LOGGED_IN
        assert is_connected(realm)

    def test_the_remote_forgets_the_login(self, users: Users) -> None:
        user = users.app().login(EMMA)
        user.log_out()
        eventually(lambda: users.remote.logged_in() == [])

    def test_the_remote_hears_of_it_also_when_the_app_is_closed_at_once(self, users: Users) -> None:
        app = users.app()
        app.login(EMMA).log_out()
        app.close()
        assert users.remote.logged_in() == []

    def test_it_works_offline_and_though_the_adapter_hangs(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        users.remote.go_offline()
        user.log_out()
        assert realm.sync_session.state is SessionState.INACTIVE
        users.remote.go_online()
        users.app("other").login(KEVIN).log_out()

    def test_it_works_though_the_adapter_cannot_be_cancelled(self, users: Users) -> None:
        user = users.app().login(EMMA)
        users.line.hold("log_out", stubborn=True)
        user.log_out()
        eventually(lambda: users.line.held("log_out"))
        as_time_passes(users.clock, 130, lambda: not user.app.users._revoking._pending)
        users.line.let_go("log_out")

    def test_twice_is_fine(self, users: Users) -> None:
        user = users.app().login(EMMA)
        user.log_out()
        in_loop(user.log_out_async())
        assert user.state is UserState.LOGGED_OUT

    def test_a_login_before_sessions_heard_of_the_logout_is_what_they_hear_last(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        tell = app.sync.tell

        def slow(told: User, event: Event, error: SyncError | None = None) -> None:
            if event is Event.LOG_OUT:
                app.sync.tell = tell  # type: ignore[method-assign]
                in_background(lambda: app.login(EMMA)).result(PATIENCE)
            tell(told, event, error)

        app.sync.tell = slow  # type: ignore[method-assign, assignment]
        user.log_out()
        assert user.state is UserState.LOGGED_IN
        assert realm.sync_session.state is SessionState.ACTIVE

    def test_a_session_that_was_not_told_hears_of_it_the_second_time(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        tell = app.sync.tell

        def broken_off(*_: object) -> None:
            raise KeyboardInterrupt

        app.sync.tell = broken_off  # type: ignore[method-assign, assignment]
        with pytest.raises(KeyboardInterrupt):
            user.log_out()
        app.sync.tell = tell  # type: ignore[method-assign]
        user.log_out()
        assert realm.sync_session.state is SessionState.INACTIVE

    def test_sessions_hear_of_other_processes_while_no_lock_is_held(self, users: Users) -> None:
        app, other = users.app(), users.app()
        user = app.login(EMMA)
        assert other.current_user is not None
        free = []
        looks = []

        class Late(TokenFile):
            """Others log out between one look and the next."""

            def load(self) -> UserTable:
                looks.append(1)
                if len(looks) == 2:
                    user.log_out()
                return super().load()

        def is_free() -> bool:
            if not other.users._lock.acquire(timeout=1):
                return False
            other.users._lock.release()
            return True

        def tell(*_: object) -> None:
            free.append(in_background(is_free).result(PATIENCE))

        file, files = other.users._keeping()
        other.users._kept = Late(file.directory, file.remote), files
        other.sync.tell = tell  # type: ignore[method-assign, assignment]
        other.users._current = None
        assert [other.current_user, other.current_user][1] is None
        assert free == [True]

    def test_a_configuration_for_one_who_is_logged_out_is_refused(self, users: Users) -> None:
        user = users.app().login(EMMA)
        user.log_out()
        with pytest.raises(NotLoggedIn, match=r"logged out.*Call app\.login"):
            SyncConfiguration(user, {Note})

    def test_a_realm_opened_with_an_older_configuration_waits_for_the_login(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        configuration = SyncConfiguration(user, {Note}, error_handler=users.hear)
        user.log_out()
        with Realm.open(configuration) as realm:
            add(realm, "kept")
            eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
            app.login(EMMA)
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)

    def test_closing_and_logging_in_at_once_leaves_no_session(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        for _ in range(20):
            realm = users.open(user)
            user.log_out()
            closing = in_background(realm.close)
            app.login(EMMA)
            closing.result(PATIENCE)
            assert app.sync.wait_for_sessions_to_terminate(PATIENCE)


class TestRemoving:
    def test_the_users_files_go_and_others_stay(self, users: Users, tmp_path: Path) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        elsewhere = tmp_path / "elsewhere.db"
        paths = []
        for user, changes in ((emma, {}), (emma, {"name": "two.db"}), (emma, {"path": elsewhere}), (kevin, {})):
            with users.open(user, stop_policy="immediately", **changes) as realm:
                add(realm, "unsent")
                paths.append(realm.path)
        assert app.sync.wait_for_sessions_to_terminate(PATIENCE)
        emma.remove()
        assert emma.state is UserState.REMOVED
        assert [path.exists() for path in paths] == [False, False, False, True]
        assert not paths[0].parent.exists()
        assert app.all_users() == [kevin]

    def test_an_open_file_is_deleted_when_it_is_closed(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        add(realm, "still here")
        user.remove()
        assert realm.sync_session.state is SessionState.INACTIVE
        assert texts(realm) == ["still here"]
        realm.close()
        eventually(lambda: not realm.path.exists())  # behind what its session was writing

    def test_a_file_that_stays_open_is_deleted_at_a_later_start(self, users: Users) -> None:
        user = users.app().login(EMMA)
        other = users.app()  # as another process would
        known = other.current_user
        assert known is not None
        realm = users.open(known)
        realm.sync_session.pause()  # so it does not hear that the user is gone
        user.remove()
        assert realm.path.exists()
        other.close()
        realm.close()
        assert realm.path.exists()
        assert users.app().current_user is None
        assert not realm.path.exists()

    def test_who_logs_in_again_is_another_user_with_nothing(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        realm = users.open(user)
        user.remove()
        again = app.login(EMMA)
        assert again is not user
        with pytest.raises(StoreBusy, match=r"is to be deleted.*Close all of that user's realms"):
            users.open(again)
        assert realm.sync_session.state is SessionState.INACTIVE
        realm.close()
        assert texts(users.open(again)) == []

    def test_a_second_time_is_an_error(self, users: Users) -> None:
        user = users.app().login(EMMA)
        in_loop(user.remove_async())
        with pytest.raises(UserRemoved, match="was removed"):
            user.remove()
        user.log_out()
        with pytest.raises(UserRemoved):
            SyncConfiguration(user, {Note})

    def test_one_who_is_logged_out_can_be_removed(self, users: Users) -> None:
        app = users.app()
        user = app.login(EMMA)
        user.log_out()
        user.remove()
        assert app.all_users() == []

    def test_an_encrypted_file_goes_as_well(self, users: Users, tmp_path: Path) -> None:
        pytest.importorskip("sqlcipher3")
        user = users.app().login(EMMA)
        paths = []
        for changes in ({}, {"path": tmp_path / "elsewhere.db"}):
            with users.open(user, stop_policy="immediately", encryption_key=bytes(32), **changes) as realm:
                paths.append(realm.path)
        user.app.close()
        app = users.app()
        again = app.current_user
        assert again is not None
        again.remove()
        assert [path.exists() for path in paths] == [False, True], "one whose key is not known, elsewhere, stays on the list"

    def test_one_who_was_removed_by_another_process_and_logs_in_again_is_another_user(self, users: Users) -> None:
        app, other = users.app(), users.app()
        removing = app.login(EMMA)
        user = other.current_user
        assert user is not None
        realm = users.open(user)
        removing.remove()
        again = other.login(EMMA)
        assert again is not user
        assert (user.state, again.state) == (UserState.REMOVED, UserState.LOGGED_IN)
        assert realm.sync_session.state is SessionState.INACTIVE
        with pytest.raises(StoreBusy):
            users.open(again)
        realm.close()
        reopened = users.open(again, name="default.db")
        add(reopened, "after the new log-in")
        app.close()
        assert other.current_user is again
        assert users.app().current_user is not None
        assert texts(reopened) == ["after the new log-in"]

    @pytest.mark.parametrize("noticed", ["as the remote refuses", "when users are asked for"])
    def test_one_who_has_a_realm_open_is_told_that_another_process_removed_the_user(self, users: Users, noticed: str) -> None:
        removing, other = users.app().login(EMMA), users.app()
        user = other.current_user
        assert user is not None
        realm = users.open(user)
        assert is_connected(realm)
        removing.remove()
        eventually(lambda: users.remote.logged_in() == [])
        add(realm, "before anybody here knew")
        if noticed == "when users are asked for":
            assert other.current_user is None
        eventually(lambda: user.state is UserState.REMOVED)
        eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
        realm.sync_session.resume()
        eventually(lambda: len(users.told) == 2 and realm.sync_session.state is SessionState.INACTIVE)
        assert users.kinds == ["Unauthorized"] * 2
        assert all("was removed from this device" in str(error) and "deleted" in str(error) for error in users.told)
        add(realm, "afterwards")  # to a file that goes when it is closed
        assert texts(realm) == ["afterwards", "before anybody here knew"]
        path = realm.path
        realm.close()
        eventually(lambda: not path.exists())

    def test_who_removes_a_user_is_not_told_of_it(self, users: Users) -> None:
        user = users.app().login(EMMA)
        realm = users.open(user)
        assert is_connected(realm)
        user.remove()
        assert realm.sync_session.state is SessionState.INACTIVE
        assert users.told == []

    def test_a_removal_that_another_process_made_is_seen_though_the_user_came_back_there(self, users: Users) -> None:
        app, other = users.app(), users.app()
        removing = app.login(EMMA)
        user = other.current_user
        assert user is not None
        removing.remove()
        app.login(EMMA)
        assert other.current_user is not user
        assert user.state is UserState.REMOVED

    def test_files_named_like_those_beside_a_database_go_as_well(self, users: Users) -> None:
        user = users.app().login(EMMA)
        with users.open(user, name="notes-wal", stop_policy="immediately") as realm:
            add(realm, "secret")
        assert user.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        user.remove()
        assert not realm.path.parent.exists()

    @pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
    def test_files_whose_names_are_no_text_go_as_well(self, users: Users) -> None:
        user = users.app().login(EMMA)
        with users.open(user, stop_policy="immediately") as realm:
            pass
        assert user.app.sync.wait_for_sessions_to_terminate(PATIENCE)
        Path(os.fsdecode(os.fsencode(realm.path.parent) + b"/photo-\xff.jpg")).touch()
        user.remove()
        assert not realm.path.parent.exists()

    def test_another_users_file_in_the_directory_stays(self, users: Users) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        users.open(emma).close()
        path = users.directory / "todo" / "emma" / "shared.db"
        with users.open(kevin, path=path, stop_policy="immediately") as realm:
            add(realm, "kevin's")
        assert app.sync.wait_for_sessions_to_terminate(PATIENCE)
        emma.remove()
        assert path.exists()
        assert texts(users.open(kevin, path=path)) == ["kevin's"]

    def test_a_file_that_is_somebody_elses_by_now_stays(self, users: Users, tmp_path: Path) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        path = tmp_path / "shared.db"
        for user in (emma, kevin):
            path.unlink(missing_ok=True)
            with users.open(user, path=path, stop_policy="immediately"):
                pass
            assert app.sync.wait_for_sessions_to_terminate(PATIENCE)
        emma.remove()
        assert path.exists()


class TestFiles:
    def test_each_user_and_app_has_a_directory(self, users: Users) -> None:
        app, other = users.app(), users.app("Other App")
        paths = [users.open(user).path for user in (app.login(EMMA), app.login(KEVIN), other.login(EMMA))]
        assert paths[0] == users.directory / "todo" / "emma" / "default.db"
        assert paths[1] == users.directory / "todo" / "kevin" / "default.db"
        assert paths[2].parent.name == "emma"
        assert len({path.parent for path in paths}) == 3

    def test_a_name_picks_a_file_in_it(self, users: Users) -> None:
        realm = users.open(users.app().login(EMMA), name="Aufgaben für Emma.db")
        assert realm.path == users.directory / "todo" / "emma" / "Aufgaben für Emma.db"

    def test_each_partition_has_a_file(self, users: Users) -> None:
        user = users.app().login(EMMA)
        assert users.open(user, partition="team-7").path.name == "team-7.db"
        assert users.open(user, partition="Team 7").path.name not in ("team-7.db", "default.db")

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "nul", "CON.db", "a\0b", "a.", " a", "a:b", "x" * 201])
    def test_a_name_that_is_none_everywhere_is_refused(self, users: Users, name: str) -> None:
        with pytest.raises(ValueError, match=r"^name "):
            SyncConfiguration(users.app().login(EMMA), {Note}, name=name)

    def test_name_and_path_exclude_each_other(self, users: Users) -> None:
        with pytest.raises(ValueError, match="not both"):
            SyncConfiguration(users.app().login(EMMA), {Note}, "a.db", name="b.db")

    def test_directories_are_for_this_user_of_the_system_alone(self, users: Users) -> None:
        realm = users.open(users.app().login(EMMA))
        for directory in (realm.path.parent, realm.path.parent.parent):
            assert directory.stat().st_mode & 0o777 == 0o700

    def test_a_file_remembers_its_user_and_refuses_others(self, users: Users, tmp_path: Path) -> None:
        app = users.app()
        path = tmp_path / "one.db"
        with users.open(app.login(EMMA), path=path, stop_policy="immediately"):
            pass
        assert sql(path, "SELECT user FROM localstore_state") == [("emma",)]
        app.sync.wait_for_sessions_to_terminate(PATIENCE)
        with pytest.raises(StoreUnusable, match=r"belongs to the user 'emma', not to the user 'kevin'. It was not changed"):
            users.open(app.login(KEVIN), path=path)

    def test_also_while_it_is_open(self, users: Users, tmp_path: Path) -> None:
        app = users.app()
        users.open(app.login(EMMA), path=tmp_path / "one.db")
        with pytest.raises(StoreUnusable, match="open for the user 'emma', and cannot be opened for 'kevin'"):
            users.open(app.login(KEVIN), path=tmp_path / "one.db")

    def test_a_realm_in_memory_leaves_nothing(self, users: Users) -> None:
        user = users.app().login(EMMA)
        with users.open(user, in_memory=True, stop_policy="immediately") as realm:
            add(realm, "a")
        assert not (users.directory / "todo" / "emma").exists()


class TestWholeFiles:
    """What is done to whole files knows users as well."""

    def test_deleting_and_compacting_find_the_users_file(self, users: Users) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        with users.open(emma) as realm:
            add(realm, "a")
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert app.sync.wait_for_sessions_to_terminate(PATIENCE)
        configuration = SyncConfiguration(emma, {Note})
        assert Realm.compact(configuration)
        with pytest.raises(StoreUnusable, match="belongs to the user 'emma'"):
            Realm.delete_files(SyncConfiguration(kevin, {Note}, realm.path))
        assert Realm.delete_files(configuration)
        assert not realm.path.exists()
        assert not Realm.delete_files(configuration)

    def test_a_copy_for_another_user_lies_in_that_users_directory(self, users: Users) -> None:
        app = users.app()
        emma, kevin = app.login(EMMA), app.login(KEVIN)
        realm = users.open(emma)
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        realm.write_copy_to(SyncConfiguration(kevin, {Note}, partition="kevins"))
        copy = users.open(kevin, partition="kevins")
        assert copy.path == users.directory / "todo" / "kevin" / "kevins.db"
        assert sql(copy.path, "SELECT user FROM localstore_state") == [("kevin",)]
        assert texts(copy) == ["a"]
        assert copy.sync_session.upload_all_local_changes(timeout=PATIENCE)
        assert len(users.remote.changesets("kevins")) == 1

    def test_a_user_can_wait_for_the_first_data(self, users: Users, tmp_path: Path) -> None:
        realm = users.open(users.app().login(EMMA))
        add(realm, "a")
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
        elsewhere = users.app(directory=tmp_path / "another device").login(EMMA)
        assert texts(users.open(elsewhere, wait_for_initial_remote_data=PATIENCE)) == ["a"]


class TestRemotesWithoutUsers:
    def test_there_is_one_user_who_needs_no_network(self, tmp_path: Path) -> None:
        remote = MemoryRemote()
        remote.go_offline()
        with App.create("todo", remote=remote.adapter) as app:
            assert app.current_user is None
            assert app.all_users() == []
            user = app.login(Credentials.anonymous())
            assert (user.id, user.state) == ("local", UserState.LOGGED_IN)
            assert app.login(Credentials.anonymous()) is user
            assert in_loop(app.login_async(Credentials.anonymous())) is user
            app.switch_user(user)
            assert app.all_users() == [app.current_user] == [user]

    def test_nothing_of_it_is_kept_on_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("LOCALSTORE_DIRECTORY", str(tmp_path / "chosen"))
        monkeypatch.chdir(tmp_path)
        with App.create("todo", remote=MemoryRemote().adapter) as app:
            user = app.login(Credentials.anonymous())
            with Realm.open(SyncConfiguration(user, {Note})) as realm:
                assert realm.path == tmp_path / "default.db"
            user.log_out()
        assert not (tmp_path / "home").exists()
        assert not (tmp_path / "chosen").exists()

    def test_other_credentials_are_refused(self) -> None:
        with (
            App.create("todo", remote=MemoryRemote().adapter) as app,
            pytest.raises(ValueError, match=r"knows no users.*Credentials.anonymous"),
        ):
            app.login(EMMA)

    def test_logging_out_ends_sessions_until_the_next_login(self, tmp_path: Path) -> None:
        with App.create("todo", remote=MemoryRemote().adapter) as app:
            user = app.login(Credentials.anonymous())
            with Realm.open(SyncConfiguration(user, {Note}, tmp_path / "a.db", error_handler=print)) as realm:
                user.log_out()
                assert realm.sync_session.state is SessionState.INACTIVE
                realm.sync_session.resume()
                eventually(lambda: realm.sync_session.state is SessionState.INACTIVE)
                assert app.current_user is None
                assert app.login(Credentials.anonymous()) is user
                assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)

    def test_its_user_cannot_be_removed(self) -> None:
        with (
            App.create("todo", remote=MemoryRemote().adapter) as app,
            pytest.raises(LocalStoreError, match=r"Realm\.delete_files"),
        ):
            app.login(Credentials.anonymous()).remove()


FORKS = """
import os, sys
from localstore import App, Credentials, Settings
from localstore.testing.memory_users import MemoryRemoteWithUsers
remote = MemoryRemoteWithUsers()
remote.add_user("emma", Credentials.api_key("key"))
app = App.create("todo", remote=remote.adapter, settings=Settings(directory=sys.argv[1]))
app.login(Credentials.api_key("key"))
app.users._lock.acquire()  # as another thread may at the moment of the fork
child = os.fork()
if child == 0:
    found = app.login(Credentials.api_key("key"))
    os._exit(0 if app.current_user is found else 1)
_, status = os.waitpid(child, 0)
app.users._lock.release()
app.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no forks")
def test_a_forked_child_can_log_in(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS, str(tmp_path / "data")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
