"""One device as a process, for tests that kill it: ``device_process.py DATABASE REMOTE NAME COUNT [KEEP_SECONDS]``.

It writes its readings up to number COUNT, one transaction each, goes on where it stopped when it is started again on the
same file, and says on standard output what is safe: ``written NUMBER ID`` comes after the transaction was committed, and
``error KIND MESSAGE`` is what its error handler was given. History in a folder is let go of when it is in snapshots for longer
than KEEP_SECONDS. It logs in with DEVICE_EMAIL and DEVICE_PASSWORD where these are set, and gives an emptied remote all it has
where DEVICE_SEEDS is. Then it does the commands that come in, and says when each is done:

- ``upload`` and ``download`` wait until everything is sent or received;
- ``rows NUMBER`` waits until so many readings are there;
- ``write NUMBER`` writes readings up to that number;
- ``hammer SECONDS`` writes all the time;
- ``begin`` writes all the time from then on, until ``end``;
- ``synced`` and ``cut`` wait until the session's status says that all is well, or that the remote cannot be reached;
- ``waiting`` waits until it is to try again later, for whatever reason;
- ``why REASON`` waits until it gives this reason;
- ``reset KIND`` waits until a client reset of this kind was carried out; ``reset none`` that there was none.
"""

import functools
import os
import sys
import threading
import time
from uuid import UUID

from sqlmodel import Field, SQLModel, col, func, select

from localstore import App, Credentials, Realm, RecoverOrDiscard, SeedRemote, SyncConfiguration, uuid7
from localstore.errors import Offline
from localstore.sync.status import Reason, SyncStatus
from localstore_adapters.folder import FolderAdapter, folder_path

WAIT_SECONDS = 120
PAUSE_SECONDS = 0.02
STEADY_SECONDS = 0.05
DAY_SECONDS = 86_400


class Reading(SQLModel, table=True):
    """A measurement; nobody ever changes it."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    device: str
    number: int
    text: str


class Latest(SQLModel, table=True):
    """The last reading of all, in one row that every device inserts and then keeps changing."""

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    device: str
    number: int
    total: int = 0


def write_readings(realm: Realm, name: str, count: int) -> None:
    """Write the readings up to this number that are still missing."""
    for number in range(last_reading(realm, name) + 1, count + 1):
        write_reading(realm, name, number)


def hammer(realm: Realm, name: str, seconds: float) -> None:
    """Write for so long, with pauses in which others get a turn."""
    number, deadline = last_reading(realm, name), time.monotonic() + seconds
    while time.monotonic() < deadline:
        number += 1
        write_reading(realm, name, number)
        time.sleep(PAUSE_SECONDS)


class Steady(threading.Thread):
    """Writes all the time, until it is told to end."""

    def __init__(self, realm: Realm, name: str) -> None:
        super().__init__()
        self._realm = realm
        self._name = name
        self._ended = threading.Event()

    def run(self) -> None:
        number = last_reading(self._realm, self._name)
        while not self._ended.wait(STEADY_SECONDS):
            number += 1
            write_reading(self._realm, self._name, number)

    def end(self) -> bool:
        self._ended.set()
        if self.is_alive():
            self.join()
        return True


def last_reading(realm: Realm, name: str) -> int:
    return max(realm.exec(select(Reading.number).where(col(Reading.device) == name)).all(), default=0)


def write_reading(realm: Realm, name: str, number: int) -> None:
    """Write a reading, with its trace in the row that all share."""
    with realm.write() as tx:
        reading = Reading(device=name, number=number, text=f"{name} {number} " * 20)
        tx.add(reading)
        latest = tx.get(Latest, 1)
        if latest is None:
            tx.add(Latest(id=1, device=name, number=number))
        else:
            latest.device, latest.number, latest.total = name, number, latest.total + 1
    say("written", number, reading.id)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def main() -> None:
    database, url, name, count, *keep = sys.argv[1:]
    remote = functools.partial(FolderAdapter, folder_path(url), keep_days=float(keep[0]) / DAY_SECONDS) if keep else url
    app = App.create("readings", remote=remote)
    config = SyncConfiguration(
        app.login(credentials()),
        schema={Reading, Latest},
        path=database,
        client_reset=SeedRemote() if "DEVICE_SEEDS" in os.environ else RecoverOrDiscard(),
        error_handler=lambda session, error: say("error", type(error).__name__, error),
    )
    with Realm.open(config) as realm:
        say("opened", realm.device_id)
        write_readings(realm, name, int(count))
        steady = Steady(realm, name)
        for line in sys.stdin:
            say("done", line.strip(), obey(realm, name, steady, *line.split()))
        steady.end()
    app.close()


def credentials() -> Credentials:
    email = os.environ.get("DEVICE_EMAIL")
    return Credentials.anonymous() if email is None else Credentials.email_password(email, os.environ["DEVICE_PASSWORD"])


def obey(realm: Realm, name: str, steady: Steady, what: str, number: str = "0") -> bool:
    """Do what a command says; whether it came about in time."""
    match what:
        case "begin":
            steady.start()
            return True
        case "end":
            return steady.end()
        case "write":
            write_readings(realm, name, int(number))
            return True
        case "hammer":
            hammer(realm, name, float(number))
            return True
        case "upload":
            return realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
        case "download":
            return realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so(realm, what, number):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def is_so(realm: Realm, what: str, number: str) -> bool:
    """What a command waits for."""
    match what:
        case "rows":
            return realm.exec(select(func.count()).select_from(Reading)).one() >= int(number)
        case "synced":
            return is_synced(realm.sync_session.status)
        case "cut":
            return is_cut(realm.sync_session.status)
        case "waiting":
            return realm.sync_session.status.next_attempt is not None and not realm.sync_session.status.is_caught_up
        case "why":
            return realm.sync_session.status.why.name.lower() == number
        case "reset":
            last = realm.sync_session.last_reset
            return ("none" if last is None else last.kind.name.lower()) == number
    raise ValueError(what)


def is_synced(status: SyncStatus) -> bool:
    return status.why is Reason.IN_STEP and status.is_synced and status.last_error is None


def is_cut(status: SyncStatus) -> bool:
    """Whether it says so with all that follows from it."""
    follows = status.next_attempt is not None and not status.is_caught_up and not status.is_synced
    return status.why is Reason.OFFLINE and follows and isinstance(status.last_error, Offline)


if __name__ == "__main__":
    main()
