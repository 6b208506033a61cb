"""The scratch application's devices as folders, and the processes that work in them.

Each command is a process of its own, forked off one that has imported the libraries, as importing is most of what a short
process does; where nothing can be forked, each imports them anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from .changes import Expected

__all__ = ["Device", "Processes", "World", "mismatches"]

HERE = Path(__file__).parent
_TIMEOUT = 120


class Processes:
    """Runs commands in folders.

    Args:
        python: the interpreter; the library must be importable there.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self._server = subprocess.Popen(
            [python, "-W", "error", str(HERE / "process.py"), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, folder: Path, *arguments: str) -> str:
        """What a command printed.

        Raises:
            AssertionError: it failed.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([str(folder), list(arguments)]) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, f"the process that runs {arguments} is gone"
        code, said = json.loads(answer)
        assert code == 0, f"{' '.join(arguments)} in {folder.name} ended with {code}:\n{said}"
        return str(said)

    def close(self) -> None:
        """End the process that the others are forked off."""
        self._server.communicate(timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Device:
    """A device: a folder with the application of its own age and its file ``app.db``."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self.folder = folder
        self.file = folder / "app.db"

    def use(self, models: str) -> None:
        """Install other models."""
        (self.folder / "models.py").write_text(models, encoding="utf-8")

    def take_revisions_of(self, other: Device) -> None:
        """Install what another device has in ``alembic/``."""
        shutil.copytree(other.folder / "alembic", self.folder / "alembic", dirs_exist_ok=True)
        shutil.copy(other.folder / "alembic.ini", self.folder)

    def localstore(self, *arguments: str) -> str:
        return self._processes.run(self.folder, "localstore", *arguments)

    def alembic(self, *arguments: str) -> str:
        return self._processes.run(self.folder, "alembic", *arguments)

    def python(self, program: str) -> str:
        return self._processes.run(self.folder, "python", program)

    def open(self, how: str, edit: str = "") -> dict[str, int]:
        """Open the realm, ``offline`` or ``online``, write, and sync; returns how much is pending and in conflict."""
        said = self._processes.run(self.folder, "application", how, edit)
        return dict(json.loads(said.splitlines()[-1]))

    def revise(self, message: str, revision: tuple[str, str]) -> None:
        """Let Alembic write a revision and put in by hand what its author would: ``%s`` is what autogenerate wrote."""
        self.alembic("revision", "--autogenerate", "-m", message)
        (made,) = self.folder.joinpath("alembic/versions").glob(f"*_{message.replace(' ', '_')}.py")
        head, upgrade, downgrade = made.read_text(encoding="utf-8").split("() -> None:\n")
        body, _, name = upgrade.rpartition("\n\n\n")
        written = [revision[0].replace("%s", body.strip()), revision[1].replace("%s", downgrade.strip())]
        text = f"{head}() -> None:\n    {written[0]}\n\n\n{name}() -> None:\n    {written[1]}\n"
        made.write_text(text, encoding="utf-8")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            return connection.execute(sql).fetchall()

    def tables(self) -> dict[str, dict[Any, dict[str, tuple[str, Any]]]]:
        """The application's tables: by name and first column, each value with its storage class."""
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            connection.row_factory = sqlite3.Row
            names = [
                row[0]
                for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
                if not row[0].startswith(("localstore_", "sqlite_", "alembic_"))
            ]
            return {
                name: {row[_key_of(name)]: {column: _exactly(row[column]) for column in row.keys()} for row in rows}  # noqa: SIM118
                for name in names
                for rows in [connection.execute(f'SELECT * FROM "{name}"').fetchall()]
            }


class World:
    """The devices of one remote, which is a folder beside them."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self._processes = processes
        self.folder = folder
        (folder / "remote").mkdir(parents=True, exist_ok=True)

    def device(self, name: str) -> Device:
        """A device; its folder is made when it is missing."""
        (self.folder / name).mkdir(exist_ok=True)
        return Device(self._processes, self.folder / name)

    def copy_to(self, folder: Path) -> World:
        """All of it once more, at another place."""
        shutil.copytree(self.folder, folder)
        return World(self._processes, folder)


def mismatches(device: Device, expected: Expected) -> list[str]:
    """What a device does not hold as it should."""
    found = []
    tables = device.tables()
    for table, rows in expected.items():
        for number, columns in rows.items():
            row = tables.get(table, {}).get(UUID(int=number).hex)
            if (row is None) != (columns is None):
                found.append(f"{device.folder.name}: {table} {number} is {row}, expected {columns}")
            for name, value in (columns or {}).items():
                if row is not None and row.get(name) != _exactly(value):
                    found.append(f"{device.folder.name}: {table} {number} has {name} {row.get(name)}, expected {value!r}")
    return found


def _key_of(table: str) -> str:
    return "task_id" if table == "address" else "id"


def _exactly(value: Any) -> tuple[str, Any]:
    """1 and 1.0 are different values."""
    return type(value).__name__, value
