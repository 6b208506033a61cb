"""Rules for the whole stack: realms that sync over the adapter hold the same data in the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select

from localstore import App, Credentials, Realm, SyncConfiguration, uuid7
from localstore.testing.conformance.remote import RemoteUnderTest
from localstore.testing.conformance.suite import Suite

__all__ = ["ConvergingRules"]

_SYNC_TIMEOUT = 30.0


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
        return App.create("conformance", remote=remote.make_adapter)

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


def _exchange(one: Realm, other: Realm) -> None:
    """Let both have everything of each other."""
    for realm in (one, other):
        _upload(realm)
    for realm in (one, other):
        _download(realm)
