"""Walks one sync session from its first write to leaving sync for good: ``python -m examples.todo``.

Run it twice with the same ``--remote`` and another ``--dir`` to see the second device receive the first one's tasks.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from sqlmodel import col, select

from examples.todo.models import Task
from localstore import App, Credentials, LocalConfiguration, Realm, SyncConfiguration

WAIT_SECONDS = 30


def main() -> int:
    """Parse the command line and walk."""
    parser = argparse.ArgumentParser(prog="python -m examples.todo", description=__doc__)
    parser.add_argument("--dir", type=Path, help="where the database file goes; a fresh directory when not given")
    parser.add_argument("--remote", help="URL of the remote; a folder in --dir when not given")
    arguments = parser.parse_args()
    directory = (arguments.dir or Path(tempfile.mkdtemp(prefix="localstore-todo-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    remote = arguments.remote or (directory / "remote").as_uri().replace("file:", "folder:", 1)
    with App.create("todo", remote=remote) as app:
        return walk(app, directory)


def walk(app: App, directory: Path) -> int:
    """Open, write, wait, pause, write, resume, wait, copy out."""
    user = app.login(Credentials.anonymous())
    config = SyncConfiguration(user, schema={Task}, path=directory / "tasks.db", error_handler=report_error)
    with Realm.open(config) as realm:  # the session is active from here on
        session = realm.sync_session
        is_current = session.download_all_server_changes(timeout=WAIT_SECONDS)
        print(f"opened {realm.path}; everything downloaded: {is_current}")

        with realm.write() as tx:
            tx.add(Task(task_name="Review proposal", assignee="Emma"))
        is_sent = session.upload_all_local_changes(timeout=WAIT_SECONDS)
        print(f"wrote a task; uploaded: {is_sent}; connection: {session.connection_state.name}")

        session.pause()
        with realm.write() as tx:
            tx.add(Task(task_name="Submit expense report", assignee="Kevin"))
        print(f"paused and wrote another; session: {session.state.name}; pending changesets: {len(realm.pending())}")

        session.resume()
        is_sent = session.upload_all_local_changes(timeout=WAIT_SECONDS) and is_sent
        print(f"resumed; uploaded: {is_sent}; session: {session.state.name}; pending changesets: {len(realm.pending())}")

        for task in realm.exec(select(Task).order_by(col(Task.id))):
            print(f"  {task.task_name} ({task.assignee})")
        copy = LocalConfiguration(schema={Task}, path=free_path(directory, "mine"))
        realm.write_copy_to(copy)
    with Realm.open(copy) as mine:  # an ordinary SQLite file from now on: nothing in it is synced any more
        print(f"copied out {len(mine.exec(select(Task)).all())} tasks to {mine.path}")
    return 0 if is_current and is_sent else 1


def report_error(session: object, error: Exception) -> None:
    """What went wrong in the background; the session has already decided how it goes on."""
    print(f"sync: {error}", file=sys.stderr)


def free_path(directory: Path, name: str) -> Path:
    """A file that does not exist yet: a copy never overwrites anything."""
    paths = (directory / f"{name}{number}.db" for number in ["", *range(2, 1000)])
    return next(path for path in paths if not path.exists())


if __name__ == "__main__":
    sys.exit(main())
