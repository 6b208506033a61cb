"""The secret in a remote's URL reaches neither an application nor a log, whichever error of an adapter quotes it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore.adapter import SyncAdapter
from localstore.errors import LocalStoreError, Offline, ProtocolError, SyncError
from localstore.sync.redaction import redacted_error
from localstore.testing.faulty import Raise
from tests.unit.session_kit import PATIENCE, World, add, eventually, in_background
from tests.unit.test_urls import told

URL = "https://emma:s3cret@hub/todo?token=s3cret"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


def led_to(error: SyncError, cause: BaseException) -> SyncError:
    """An error as it is when an adapter has raised it because of another."""
    try:
        raise error from cause
    except SyncError as caught:
        return caught


class TestWhatASessionTells:
    def test_an_error_handler_gets_a_cause_without_the_secret(self, world: World) -> None:
        def make() -> SyncAdapter:
            raise OSError(f"cannot reach {URL}")

        device = world.device(remote=make)
        device.open()
        eventually(lambda: device.told)
        assert "s3cret" not in told(device.told[0])
        assert "OSError: cannot reach https://***@hub/todo?token=***" in told(device.told[0])

    def test_last_error_keeps_a_fatal_error_without_the_secret(self, world: World) -> None:
        line = world.line()
        line.hold("connect")
        line.break_down(connect=Raise(led_to(ProtocolError(f"no sense in {URL}"), ValueError(URL))))
        realm = world.device(remote=line).open()
        line.let_one_go("connect")
        eventually(lambda: realm.sync_session.last_error)
        error = realm.sync_session.last_error
        assert error is not None
        assert str(error) == "no sense in https://***@hub/todo?token=***"
        assert "s3cret" not in told(error)

    def test_pending_tells_a_transient_error_without_the_secret(self, world: World) -> None:
        line = world.line()
        line.break_down(connect=Raise(led_to(Offline(f"{URL} does not answer."), TimeoutError(URL))))
        realm = world.device(remote=line).open()
        add(realm, "a")
        eventually(lambda: realm.sync_session.last_error)
        assert [changeset.last_error for changeset in realm.pending()] == ["https://***@hub/todo?token=*** does not answer."]
        error = realm.sync_session.last_error
        assert error is not None
        assert "s3cret" not in told(error)

    def test_a_wait_that_an_error_ends_raises_it_without_the_secret(self, world: World) -> None:
        line = world.line()
        line.hold("push")
        line.break_down(push=Raise(OSError(5, "no answer", URL)))
        realm = world.device(remote=line).open()
        add(realm, "a")
        eventually(lambda: line.held("push"))
        waiting = in_background(realm.sync_session.upload_all_local_changes)
        eventually(lambda: len(realm.sync_session._waits) == 1)
        line.let_one_go("push")
        error = waiting.exception(PATIENCE)
        assert isinstance(error, ProtocolError)
        assert "s3cret" not in told(error)

    def test_the_log_of_an_adapter_that_cannot_be_closed_is_without_the_secret(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        line = world.line()
        line.break_down(close=Raise(RuntimeError(f"{URL} hangs")))
        realm = world.device(remote=line).open()
        eventually(lambda: line.count("connect"))
        realm.close()
        eventually(lambda: "could not be closed" in caplog.text)
        shown = "\n".join(logging.Formatter().format(record) for record in caplog.records)
        assert "RuntimeError: https://***@hub/todo?token=***" in shown
        assert "s3cret" not in shown


class TestRedacting:
    def test_an_error_that_tells_no_secret_stays_what_it_is(self) -> None:
        cause = OSError(5, "no answer", "https://hub/todo")
        error = led_to(ProtocolError("nonsense"), cause)
        assert redacted_error(error) is error
        assert error.__cause__ is cause

    def test_every_error_that_led_to_it_is_redacted_and_keeps_its_traceback(self) -> None:
        try:
            try:
                raise KeyError(URL)
            except KeyError as first:
                first.add_note("harmless")
                raise ConnectionError("refused")  # noqa: B904  its context is what is tested
        except ConnectionError as second:
            error = led_to(Offline("gone"), second)
        redacted_error(error)
        assert "s3cret" not in told(error)
        assert isinstance(error.__cause__, ConnectionError)
        hidden = error.__cause__.__context__
        assert isinstance(hidden, LocalStoreError)
        assert "KeyError: 'https://***@hub" in str(hidden)
        assert hidden.__traceback__ is not None

    def test_notes_and_the_members_of_a_group_are_looked_at_as_well(self) -> None:
        noted = OSError("no answer")
        noted.add_note(f"asked {URL}")
        group = ExceptionGroup("several", [OSError(URL)])
        for cause in (noted, group):
            error = led_to(Offline("gone"), cause)
            redacted_error(error)
            assert "s3cret" not in "".join(traceback.format_exception(error)).replace("OSError(URL)", "")

    def test_errors_that_led_to_each_other_are_no_endless_matter(self) -> None:
        one, two = Offline(URL), OSError(URL)
        one.__cause__, two.__context__ = two, one
        redacted_error(one)
        assert one.__cause__ is not two
        assert one.__cause__.__context__ is one
