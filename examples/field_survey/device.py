"""One island's device: a process of its own, with its own database file.

It does the phases that come in as lines on standard input, and writes reports as lines on standard output. It ends when its
input does.
"""

import argparse
import hashlib
import sys
import threading
import time
from pathlib import Path

from sqlmodel import SQLModel, func, select

from examples.field_survey.data import field_days
from examples.field_survey.edits import edit, enter_station
from examples.field_survey.models import SCHEMA, Penguin
from examples.field_survey.reports import Failed, Finished, LostValue, Phase, Report, Result, Status, encode
from localstore import App, Credentials, Realm, SyncConfiguration
from localstore.errors import SyncError

WAIT_SECONDS = 40
REPORT_SECONDS = 0.1


class Device:
    """An open realm, what it is asked to do, and its reports."""

    def __init__(self, app: App, realm: Realm, *, island: str, pace: float) -> None:
        self._app = app
        self._realm = realm
        self._island = island
        self._pace = pace
        self._phase = Phase.ENTER
        self._stop = threading.Event()
        self._output = threading.Lock()

    def run(self) -> None:
        """Do phase after phase, with a status every moment, until the input ends."""
        ticker = threading.Thread(target=self._tick)
        ticker.start()
        try:
            for line in sys.stdin:
                self._phase = Phase[line.strip()]
                self._do(self._phase)
                self._send(self._status())
                self._send(Finished(self._phase.name))
        except Exception as error:
            self._send(Failed(f"{type(error).__name__}: {error}"))
            raise
        finally:
            self._stop.set()
            ticker.join()

    def _do(self, phase: Phase) -> None:
        session = self._realm.sync_session
        match phase:
            case Phase.ENTER:
                self._enter()
            case Phase.UPLOAD:
                session.resume()  # does nothing when it was not paused
                self._app.sync.reconnect()  # now, and not when the next attempt is due
                _in_time(session.upload_all_local_changes(timeout=WAIT_SECONDS), phase)
            case Phase.DOWNLOAD:
                _in_time(session.download_all_server_changes(timeout=WAIT_SECONDS), phase)
            case Phase.EDIT:
                session.pause()
                edit(self._realm, self._island)
            case Phase.RESULT:
                self._send(self._result())

    def _enter(self) -> None:
        with self._realm.write() as tx:
            enter_station(tx, self._island)
        for day in field_days(self._island):
            with self._realm.write() as tx:
                tx.add_all(day)
            time.sleep(self._pace)

    def _tick(self) -> None:
        while not self._stop.wait(REPORT_SECONDS):
            self._send(self._status())

    def _send(self, report: Report) -> None:
        with self._output:
            print(encode(report), flush=True)

    def _status(self) -> Status:
        session = self._realm.sync_session
        return Status(
            phase=self._phase,
            rows=self._realm.exec(select(func.count()).select_from(Penguin)).one(),
            pending=len(self._realm.pending()),
            session=session.state.name,
            connection=session.connection_state.name,
            why=type(session.last_error).__name__ if session.last_error else "",
        )

    def _result(self) -> Result:
        contents = {model.__name__: _content(self._realm, model) for model in sorted(SCHEMA, key=lambda model: model.__name__)}
        lines = [f"{name} {row}" for name, rows in contents.items() for row in rows]
        return Result(
            device_id=self._realm.device_id,
            path=str(self._realm.path),
            rows={name: len(rows) for name, rows in contents.items()},
            digest=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
            lost=[
                LostValue(
                    table=conflict.table,
                    key=list(conflict.key),
                    column=conflict.column,
                    lost_value=conflict.lost_value,
                    won_value=conflict.won_value,
                    lost_device=conflict.lost_device,
                    won_device=conflict.won_device,
                    rule=conflict.rule,
                )
                for conflict in self._realm.conflicts()
            ],
        )


def _content(realm: Realm, model: type[SQLModel]) -> list[str]:
    """A table's rows in an order that is the same on all devices, and so are the columns."""
    return sorted(str([getattr(row, name) for name in model.model_fields]) for row in realm.exec(select(model)))


def _in_time(is_done: bool, phase: Phase) -> None:
    if not is_done:
        raise TimeoutError(f"{phase}: not done after {WAIT_SECONDS} seconds")


def report_error(session: object, error: SyncError) -> None:
    """Keep what went wrong in the background in the device's log file, which standard error goes to."""
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)


def main() -> None:
    """Open the realm and do as the survey says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("island")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--remote", required=True)
    parser.add_argument("--pace", type=float, default=0.0, help="seconds to rest after each day's data")
    arguments = parser.parse_args()
    app = App.create("field-survey", remote=arguments.remote)
    try:
        user = app.login(Credentials.anonymous())
        config = SyncConfiguration(user, schema=SCHEMA, path=arguments.database, error_handler=report_error)
        with Realm.open(config) as realm:
            Device(app, realm, island=arguments.island, pace=arguments.pace).run()
    finally:
        app.close()


if __name__ == "__main__":
    main()
