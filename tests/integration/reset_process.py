"""A device as a process that is reset, and kills itself where it is told: ``reset_process.py DATABASE FOLDER WHERE``.

``WHERE`` is ``before`` or ``after``, for the callbacks, ``pull`` for the download, or ``nowhere``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from sqlmodel import Field, Session, SQLModel, select

from localstore import App, Credentials, Realm, RecoverOrDiscard, SyncConfiguration
from localstore.adapter import Cursor, Limit, Page
from localstore_adapters.folder import FolderAdapter

WAIT_SECONDS = 60


class Word(SQLModel, table=True):
    text: str = Field(primary_key=True)


class Dying(FolderAdapter):
    """Kills the process at the pull of a new device's line."""

    async def pull(self, cursor: Cursor | None, limit: Limit) -> Page:
        if cursor is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().pull(cursor, limit)


def main() -> None:
    database, folder, where = sys.argv[1:]

    def called(name: str, tx: Session | None) -> None:
        print("called", name, flush=True)  # noqa: T201
        if tx is not None:
            tx.add(Word(text=f"by the callback {name}"))
            tx.flush()
        if where == name:
            os.kill(os.getpid(), signal.SIGKILL)

    adapter = Dying if where == "pull" else FolderAdapter
    app = App.create("words", remote=lambda: adapter(Path(folder)))
    strategy = RecoverOrDiscard(
        on_before=lambda before: called("before", None), on_after_recovery=lambda before, after: called("after", after)
    )
    config = SyncConfiguration(
        app.login(Credentials.anonymous()), schema={Word}, path=database, client_reset=strategy, stop_policy="immediately"
    )
    with Realm.open(config) as realm:
        if where == "nowhere":
            assert realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
        assert realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        assert realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
        print("has", *sorted(realm.exec(select(Word.text)).all()), sep="|", flush=True)  # noqa: T201
    app.close()


if __name__ == "__main__":
    main()
