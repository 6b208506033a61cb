"""What the tests of users share: apps around one remote that wants users, under one clock, with what they keep on disk."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from localstore import App, Credentials, Realm, Settings, SyncConfiguration, User
from localstore.errors import LocalStoreError, SyncError
from localstore.sync.session import SyncSession
from localstore.testing.clock import ManualClock, environment
from localstore.testing.memory_users import MemoryRemoteWithUsers
from tests.unit.session_kit import Line, Note, eventually, no_threads_are_left

EMMA = Credentials.email_password("emma@example.com", "pass-of-emma")
KEVIN = Credentials.email_password("kevin@example.com", "pass-of-kevin")
MINUTES = 60.0


class Users:
    """Apps on one device, and Emma and Kevin at the remote. Leaving it closes them all.

    Attributes:
        told: errors given to error handlers, in order.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock()
        self.remote = MemoryRemoteWithUsers(environment=environment(self.clock, seed=1000))
        self.remote.add_user("emma", EMMA)
        self.remote.add_user("kevin", KEVIN)
        self.line = Line(self.remote)
        self.told: list[SyncError] = []
        self._apps: list[App] = []
        self._realms: list[Realm] = []

    def app(
        self, app_id: str = "todo", *, clock: ManualClock | None = None, directory: Path | None = None, **settings: Any
    ) -> App:
        """A program that is started; several of the same id are processes of one application, as far as it can be seen here."""
        app = App.create(
            app_id,
            remote=self.line,
            settings=Settings(**{"directory": str(directory or self.directory), "backoff_jitter": 0, **settings}),
            environment=environment(clock or self.clock, seed=len(self._apps)),
        )
        self._apps.append(app)
        return app

    def open(self, user: User, **changes: Any) -> Realm:
        realm = Realm.open(SyncConfiguration(user, **{"schema": {Note}, "error_handler": self.hear, **changes}))
        self._realms.append(realm)
        return realm

    def hear(self, session: SyncSession, error: SyncError) -> None:
        self.told.append(error)

    @property
    def kinds(self) -> list[str]:
        return [type(error).__name__ for error in self.told]

    @property
    def kept(self) -> Path:
        """The file with log-ins of the app \"todo\"."""
        return self.directory / "todo" / "users.json"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for app in self._apps:
            app.close()
        for realm in self._realms:
            with suppress(LocalStoreError):
                realm.close()
        if error is None:
            no_threads_are_left()


def is_connected(realm: Realm) -> bool:
    """Whether its session reaches the remote, now or in a moment."""
    session = realm.sync_session
    eventually(lambda: session.connection_state.value == "connected", "the session to connect")
    return True
