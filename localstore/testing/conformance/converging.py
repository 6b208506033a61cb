"""Rules for the whole stack: realms that sync over the adapter hold the same data in the end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select

from localstore import App, Credentials, Realm, ResetReason, Settings, SyncConfiguration, uuid7
from localstore.errors import Offline
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Suite
from localstore.testing.faulty import Call, Fault, FaultyAdapter, LoseAnswer, Raise, Repeat, SmallPage

__all__ = ["ConvergingRules", "Note"]

_SYNC_TIMEOUT = 30.0
_BACKOFF = 0.01


class _Model(SQLModel, registry=registry()):
    """A registry of its own, so that the suite's class is in nobody's way."""


class Note(_Model, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str
    mark: int | None = None
    blob: bytes = b""


class ConvergingRules(Suite):
    def make_app(self, remote: RemoteUnderTest) -> App:
        """An application on the remote; override it where a remote wants more than an adapter."""
        return App.create("conformance", remote=remote.make_adapter, settings=self.settings())

    def settings(self) -> Settings:
        """The application's settings: after an error it tries again at once."""
        return Settings(backoff_initial=_BACKOFF, backoff_max=_BACKOFF)

    @contextlib.contextmanager
    def realm(self, remote: RemoteUnderTest, path: Path) -> Iterator[Realm]:
        """An open synced realm, in an application of its own as on a device of its own."""
        app = self.make_app(remote)
        try:
            configuration = SyncConfiguration(app.login(Credentials.anonymous()), schema={Note}, path=path)
            with Realm.open(configuration) as realm:
                yield realm
        finally:
            app.close()

    def test_two_realms_converge(self, remote: RemoteUnderTest, tmp_path: Path) -> None:
        with self.realm(remote, tmp_path / "one.db") as one, self.realm(remote, tmp_path / "other.db") as other:
            _add(one, "kept", "edited twice", "deleted")
            _exchange(one, other)
            assert _texts(other) == {"kept", "edited twice", "deleted"}
            # Without waiting for each other: different columns of one row, a new row, and a deleted one.
            _edit(one, "edited twice", mark=7)
            _edit(other, "edited twice", blob=b"\x00\xff" * 1000)
            _add(other, "added")
            _delete(one, "deleted")
            _exchange(one, other)
            assert _rows(one) == _rows(other)
            assert _texts(one) == {"kept", "edited twice", "added"}
            edited = next(row for row in _rows(one) if row[1] == "edited twice")
            assert edited[2:] == (7, b"\x00\xff" * 1000)

    def test_a_new_device_receives_the_whole_history(self, remote: RemoteUnderTest, tmp_path: Path) -> None:
        with self.realm(remote, tmp_path / "one.db") as one:
            for number in range(30):
                _add(one, f"note {number}")
            _delete(one, "note 3")
            _upload(one)
            before = _rows(one)
        with self.realm(remote, tmp_path / "new.db") as new:
            _download(new)
            assert _rows(new) == before

    def test_a_reopened_realm_goes_on_where_it_was(self, remote: RemoteUnderTest, tmp_path: Path) -> None:
        with self.realm(remote, tmp_path / "one.db") as one, self.realm(remote, tmp_path / "other.db") as other:
            _add(one, "first")
            _exchange(one, other)
        with self.realm(remote, tmp_path / "one.db") as one:
            _add(one, "second")
            _upload(one)
        with self.realm(remote, tmp_path / "other.db") as other, self.realm(remote, tmp_path / "one.db") as one:
            _add(other, "third")
            _exchange(one, other)
            assert _rows(one) == _rows(other)
            assert _texts(one) == {"first", "second", "third"}

    def test_a_realm_whose_remote_was_wiped_is_reset(self, remote: RemoteUnderTest, tmp_path: Path) -> None:
        replaceable = self.need_wipe(remote)
        with self.realm(remote, tmp_path / "one.db") as one:
            _add(one, "sent")
            _upload(one)
            one.sync_session.pause()
            _add(one, "not sent yet")
            replaceable.wipe()
            with self.realm(remote, tmp_path / "other.db") as other:
                _add(other, "in the new remote")
                _upload(other)
                one.sync_session.resume()
                _reset(one, ResetReason.REMOTE_REPLACED)
                _exchange(one, other)
                assert _texts(one) == _texts(other) == {"in the new remote", "not sent yet"}

    def test_a_realm_that_lacks_what_was_trimmed_is_reset(self, remote: RemoteUnderTest, tmp_path: Path) -> None:
        trimmable = self.need_trim(remote)
        with self.realm(remote, tmp_path / "one.db") as one, self.realm(remote, tmp_path / "other.db") as other:
            _add(one, "read by both")
            _exchange(one, other)
            other.sync_session.pause()
            _add(other, "not sent yet")
            _add(one, "trimmed")
            _exchange(one)
            trimmable.trim_history()
            other.sync_session.resume()
            _reset(other, ResetReason.HISTORY_TRIMMED)
            _exchange(one, other)
            assert _rows(one) == _rows(other)
            assert _texts(one) == {"read by both", "trimmed", "not sent yet"}

    def test_a_copied_file_becomes_a_device_of_its_own(self, remote: RemoteUnderTest, tmp_path: Path) -> None:
        with self.realm(remote, tmp_path / "one.db") as one:
            _add(one, "before the copy")
            _upload(one)
        shutil.copy(tmp_path / "one.db", tmp_path / "copy.db")
        with self.realm(remote, tmp_path / "one.db") as one:
            _add(one, "by the file")
            _upload(one)
            with self.realm(remote, tmp_path / "copy.db") as copy:
                _add(copy, "by the copy")
                _reset(copy, ResetReason.DEVICE_FORKED)
                _exchange(copy, one)
                assert _rows(one) == _rows(copy)
                assert _texts(one) == {"before the copy", "by the file", "by the copy"}

    def test_what_a_damaged_file_had_not_sent_is_sent_by_the_one_in_its_place(
        self, remote: RemoteUnderTest, tmp_path: Path
    ) -> None:
        with self.realm(remote, tmp_path / "one.db") as one, self.realm(remote, tmp_path / "other.db") as other:
            _add(one, "sent")
            _exchange(one, other)
            one.sync_session.pause()
            _add(one, "not sent yet")
            _edit(one, "sent", mark=7)
        with self.realm(remote, tmp_path / "new.db") as new, self.realm(remote, tmp_path / "other.db") as other:
            _add(new, "by the new file")
            _salvage(new, tmp_path / "one.db", sent=2)
            _salvage(new, tmp_path / "one.db", known=2)
            _exchange(new, other)
            assert _rows(new) == _rows(other)
            assert {(text, mark) for _, text, mark, _ in _rows(new)} == {
                ("sent", 7),
                ("not sent yet", None),
                ("by the new file", None),
            }

    def test_what_a_damaged_file_had_not_sent_is_sent_though_it_never_met_the_remote(
        self, remote: RemoteUnderTest, tmp_path: Path
    ) -> None:
        with self.realm(_OutOfReach(remote), tmp_path / "one.db") as one:
            _add(one, "not sent yet")
        with self.realm(remote, tmp_path / "new.db") as new, self.realm(remote, tmp_path / "other.db") as other:
            _salvage(new, tmp_path / "one.db", sent=1)
            _exchange(new, other)
            assert _texts(new) == _texts(other) == {"not sent yet"}

    def test_what_a_damaged_file_had_not_sent_is_sent_though_history_was_trimmed(
        self, remote: RemoteUnderTest, tmp_path: Path
    ) -> None:
        trimmable = self.need_trim(remote)
        before, after = tmp_path / "salvaged-before.db", tmp_path / "salvaged-after.db"
        for path in (before, after):
            with self.realm(remote, path) as realm:
                _add(realm, f"sent from {path.stem}")
                _upload(realm)
                realm.sync_session.pause()
                _add(realm, f"not sent from {path.stem}")
        with self.realm(remote, tmp_path / "new.db") as new, self.realm(remote, tmp_path / "other.db") as other:
            _salvage(new, before, sent=1)
            for number in range(4):
                _add(other, f"later {number}")
            _exchange(other, new)
            trimmable.trim_history()
            _salvage(new, before, known=1)
            _salvage(new, after, sent=1)
            _exchange(new, other)
            assert _rows(new) == _rows(other)
            assert len(_rows(new)) == 8

    def test_realms_converge_over_a_line_that_fails_now_and_then(self, remote: RemoteUnderTest, tmp_path: Path) -> None:
        """Answers get lost, calls arrive twice, pages are small, and the remote is out of reach for a moment."""
        faulty = _Faulty(remote)
        with self.realm(faulty, tmp_path / "one.db") as one, self.realm(faulty, tmp_path / "other.db") as other:
            for number in range(6):
                _add(one, f"one {number}")
                _add(other, f"other {number}")
            _exchange(one, other)
            assert _rows(one) == _rows(other)
            assert len(_rows(one)) == 12
        assert faulty.struck == {"connect", "push", "pull"}


class _OutOfReach:
    """A remote that no line gets to."""

    def __init__(self, remote: RemoteUnderTest) -> None:
        self._remote = remote

    def make_adapter(self) -> FaultyAdapter:
        away = Raise(Offline("As a network is before it is set up."))
        return FaultyAdapter(self._remote.make_adapter(), lambda call: away if call.name == "connect" else None)


class _Faulty:
    """A remote whose every line has the same faults at its first calls."""

    def __init__(self, remote: RemoteUnderTest) -> None:
        self.struck: set[str] = set()
        self._remote = remote
        away = Offline("As a network is for a moment.")
        self._faults: dict[str, list[Fault | None]] = {
            "connect": [Raise(away), None, LoseAnswer(away)],
            "push": [LoseAnswer(away), Repeat(), Raise(away)],
            "pull": [SmallPage(2), Repeat(), LoseAnswer(away), SmallPage(1)],
        }

    def make_adapter(self) -> FaultyAdapter:
        return FaultyAdapter(self._remote.make_adapter(), self._plan)

    def _plan(self, call: Call) -> Fault | None:
        faults = self._faults.get(call.name, [])
        if call.index >= len(faults):
            return None
        self.struck.add(call.name)
        return faults[call.index]


def _add(realm: Realm, *texts: str) -> None:
    with realm.write() as tx:
        for text in texts:
            tx.add(Note(text=text))


def _edit(realm: Realm, text: str, **values: object) -> None:
    with realm.write() as tx:
        note = tx.exec(select(Note).where(Note.text == text)).one()
        for name, value in values.items():
            setattr(note, name, value)


def _delete(realm: Realm, text: str) -> None:
    with realm.write() as tx:
        tx.delete(tx.exec(select(Note).where(Note.text == text)).one())


def _rows(realm: Realm) -> list[tuple[str, str, int | None, bytes]]:
    return sorted((str(note.id), note.text, note.mark, note.blob) for note in realm.exec(select(Note)).all())


def _texts(realm: Realm) -> set[str]:
    return {row[1] for row in _rows(realm)}


def _upload(realm: Realm) -> None:
    assert realm.sync_session.upload_all_local_changes(timeout=_SYNC_TIMEOUT), "the upload did not end in time"


def _download(realm: Realm) -> None:
    assert realm.sync_session.download_all_server_changes(timeout=_SYNC_TIMEOUT), "the download did not end in time"


def _exchange(*realms: Realm) -> None:
    """Let all have everything of each other."""
    for realm in realms:
        _upload(realm)
    for realm in realms:
        _download(realm)


def _salvage(realm: Realm, damaged: Path, *, sent: int = 0, known: int = 0) -> None:
    """Send what a file had not sent, of which the remote has some already."""
    report = realm.sync_session.salvage(damaged)
    assert (report.sent, report.known, dict(report.lost)) == (sent, known, {})


def _reset(realm: Realm, kind: ResetReason) -> None:
    """Let a realm be reset, for this reason."""
    _download(realm)
    _upload(realm)
    report = realm.sync_session.last_reset
    assert report is not None, "no client reset took place"
    assert report.kind is kind
