"""What runs in a device's folder: ``alembic ...``, ``localstore ...``, ``python PROGRAM``, or ``application HOW EDIT``.

``process.py serve`` reads folder and arguments of commands, a JSON line each, and carries each out in a fork of itself.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

WAIT_SECONDS = 60


def application(how: str, edit: str) -> None:
    """Open the realm, write, sync."""
    import models
    from sqlmodel import SQLModel

    from localstore import App, Credentials, Realm, SyncConfiguration

    schema = {
        kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, SQLModel) and kind is not SQLModel
    }
    errors: list[str] = []
    app = App.create("scratch", remote=(Path.cwd().parent / "remote").as_uri().replace("file:", "folder:", 1))
    config = SyncConfiguration(
        app.login(Credentials.anonymous()),
        schema=schema,
        path="app.db",
        error_handler=lambda session, error: errors.append(repr(error)),
    )
    with Realm.open(config) as realm:
        session = realm.sync_session
        if how == "offline":
            session.pause()
        if edit:
            with realm.write() as tx:
                names = {**vars(models), "tx": tx, "ID": lambda number: UUID(int=number)}
                tasks = names.get("Task") or names["Job"]
                exec(edit, {**names, "the": lambda number: tx.get(tasks, UUID(int=number))})
        if how == "online":
            assert session.upload_all_local_changes(timeout=WAIT_SECONDS), errors
            assert session.download_all_server_changes(timeout=WAIT_SECONDS), errors
            assert session.upload_all_local_changes(timeout=WAIT_SECONDS), errors
        assert not errors, errors
        found = {"pending": len(realm.pending()), "conflicts": len(realm.conflicts())}
    app.close()
    say(json.dumps(found))


def run(arguments: list[str]) -> None:
    """Carry out one command in the current folder."""
    kind, *rest = arguments
    sys.path.insert(0, str(Path.cwd()))
    if kind == "application":
        application(*rest)
    elif kind == "python":
        exec(compile(rest[0], "<program>", "exec"), {"__name__": "__main__"})
    elif kind == "alembic":
        from alembic.config import main

        warnings.filterwarnings("ignore", "Autogenerate rendered a drop_constraint")  # in what the author then replaces
        main(rest, prog="alembic")
    else:
        from localstore.cli import app

        app(rest, prog_name=kind)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def serve() -> None:
    """Answer each command with its exit code and what it printed, until there are no more."""
    carry_out = _spawned
    if hasattr(os, "fork"):
        _import_all()
        carry_out = _forked
    for line in sys.stdin:
        folder, arguments = json.loads(line)
        with tempfile.TemporaryFile() as output:
            code = carry_out(folder, arguments, output.fileno())
            output.seek(0)
            say(json.dumps([code, output.read().decode()]))


def _import_all() -> None:
    """What commands use, while no thread runs yet."""
    for name in ("alembic.command", "alembic.config", "localstore.cli", "localstore.realm", "localstore_adapters.folder"):
        importlib.import_module(name)


def _spawned(folder: str, arguments: list[str], output: int) -> int:
    command = [sys.executable, "-W", "error", __file__, *arguments]
    return subprocess.run(command, cwd=folder, stdout=output, stderr=output, check=False).returncode


def _forked(folder: str, arguments: list[str], output: int) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    code = _code_of(lambda: run(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code_of(command: Callable[[], None]) -> int:
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the child must not go on as its parent would
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        run(sys.argv[1:])
