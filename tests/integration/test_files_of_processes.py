"""What a file goes through when several processes have it: opened first, compacted, deleted, and left behind by the killed."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from uuid import UUID

import pytest
from sqlmodel import Field, SQLModel

from localstore import LocalConfiguration, Realm, uuid7
from localstore.errors import StoreBusy

SCRIPT = Path(__file__).with_name("file_process.py")
SECONDS = 60  # more than any process waits for anything


class Row(SQLModel, table=True):
    """As in the other process."""

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    text: str = ""


class FileProcess:
    """A running ``file_process.py``."""

    def __init__(self, what: str, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(SCRIPT), what, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def heard(self) -> list[str]:
        """The words of the next line it says."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()

    def go_on(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end(self) -> str:
        """Let it come to its end in order; what it complained about."""
        _, complaints = self._process.communicate("\n", timeout=SECONDS)
        assert self._process.returncode == 0, complaints
        return complaints

    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=SECONDS)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout is not None and not self._process.stdout.closed:
            self._process.communicate(timeout=SECONDS)


Start = Callable[[str], FileProcess]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.db"


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Starts processes on the file, which end with the test."""
    with ExitStack() as running:

        def start_one(what: str) -> FileProcess:
            process = FileProcess(what, path)
            running.callback(process.close)
            return process

        yield start_one


def configuration(path: Path) -> LocalConfiguration:
    return LocalConfiguration(path=path, schema={Row})


def rows_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return int(connection.execute("SELECT count(*) FROM row").fetchone()[0])


@pytest.mark.parametrize("how", ["hold", "idle"])
def test_a_file_that_another_process_has_open_is_neither_deleted_nor_compacted(path: Path, start: Start, how: str) -> None:
    Realm.open(configuration(path)).close()
    process = start(how)
    assert process.heard() == ["open"]
    with pytest.raises(StoreBusy):
        Realm.delete_files(configuration(path))
    assert Realm.compact(configuration(path)) is False
    assert rows_in(path) == 0
    process.go_on()
    assert process.heard() == ["closed"]
    assert Realm.compact(configuration(path)) is True
    assert Realm.delete_files(configuration(path)) is True
    assert list(path.parent.glob("file.db*")) == []


def test_nor_one_that_is_written_but_the_file_of_a_killed_process_is(path: Path, start: Start) -> None:
    process = start("write")
    for _ in range(5):
        assert process.heard()[0] == "written"
    with pytest.raises(StoreBusy):
        Realm.delete_files(configuration(path))
    process.kill()
    assert rows_in(path) >= 5
    assert Realm.delete_files(configuration(path)) is True
    assert list(path.parent.glob("file.db*")) == []


@pytest.mark.parametrize("others", ["first", "fail"])
def test_processes_that_open_a_new_file_at_once_fill_it_once(path: Path, start: Start, others: str) -> None:
    """Also when that fails in some of them, who then remove the file unless it is another's by then."""
    filling, rest = [start("first") for _ in range(2)], [start(others) for _ in range(2)]
    assert [process.heard() for process in filling + rest] == [["ready"]] * 4
    for number in range(25):
        for process in filling + rest:
            process.go_on(str(number))
        assert [process.heard() for process in filling + rest] == [["waiting"]] * 4
        path.with_name(f"{path.name}{number}.go").touch()
        heard = [process.heard() for process in filling]
        heard_of_rest = [process.heard() for process in rest]
        if others == "first":
            heard += heard_of_rest
        else:
            assert {words[0] for words in heard_of_rest} <= {"failed", "late"}
        assert [words[:2] for words in heard] == [["opened", "100"]] * len(heard)
        assert sorted(words[2] for words in heard) == [*["0"] * (len(heard) - 1), "1"]
        assert rows_in(path.with_name(f"{path.name}{number}")) == 100


@pytest.mark.parametrize("log_bytes", [1, 3_000_000, 8_000_000])
def test_compacting_that_is_killed_leaves_a_whole_file(path: Path, start: Start, log_bytes: int) -> None:
    with Realm.open(configuration(path)) as realm:
        with realm.write() as tx:
            tx.add_all([Row(text="x" * 5000) for _ in range(4000)])
        with realm.write() as tx:
            tx.connection().exec_driver_sql("DELETE FROM row WHERE rowid % 2")
    process = start("compact")
    assert process.heard() == ["ready"]
    process.go_on()
    log = path.with_name(path.name + "-wal")
    while process.is_running():  # kill it when so much is written
        with suppress(FileNotFoundError):
            if log.stat().st_size >= log_bytes:
                break
    process.kill()
    assert rows_in(path) == 2000
    with Realm.open(configuration(path)) as realm, realm.write() as tx:
        tx.add(Row())
    assert Realm.compact(configuration(path)) is True
    assert rows_in(path) == 2001


class TestInMemory:
    def test_processes_do_not_share_it(self, path: Path, start: Start) -> None:
        process = start("memory")
        _, directory = process.heard()
        with Realm.open(LocalConfiguration(path=path, schema={Row}, in_memory=True)) as realm:
            assert realm.path.parent != Path(directory)
            assert rows_in(realm.path) == 0
        assert Path(directory).exists()

    def test_one_that_was_never_closed_goes_with_its_process(self, path: Path, start: Start) -> None:
        process = start("memory")
        _, directory = process.heard()
        assert Path(directory).exists()
        assert process.end() == ""
        assert not Path(directory).exists()
        assert not path.exists()

    def test_what_a_killed_process_left_goes_when_the_next_is_made(self, path: Path, start: Start) -> None:
        killed, living = start("memory"), start("memory")
        left, used = Path(killed.heard()[1]), Path(living.heard()[1])
        killed.kill()
        assert left.exists()
        with Realm.open(LocalConfiguration(path=path, schema={Row}, in_memory=True)):
            assert not left.exists()
            assert used.exists()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    def test_a_forked_child_takes_nothing_from_its_parent(self, path: Path) -> None:
        script = (
            "import os, sys\n"
            "sys.argv = ['', sys.argv[1], sys.argv[2]]\n"
            "sys.path.insert(0, sys.argv[2])\n"
            "from file_process import *\n"
            "from localstore.errors import ForkedProcess\n"
            "parent = Realm.open(LocalConfiguration(path=sys.argv[1], schema={Row}, in_memory=True))\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    try:\n"
            "        Realm.open(LocalConfiguration(path=sys.argv[1], schema={Row}, in_memory=True))\n"
            "    except ForkedProcess:\n"
            "        sys.exit()\n"
            "    sys.exit('opened')\n"
            "_, status = os.waitpid(child, 0)\n"
            "assert status == 0, status\n"
            "assert parent.path.exists()\n"
            "with parent.write() as tx:\n"
            "    tx.add(Row())\n"
            "assert parent.exec(select(func.count()).select_from(Row)).one() == 1\n"
            "parent.close()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), str(SCRIPT.parent)],
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
        )
        assert (done.returncode, done.stderr) == (0, "")
