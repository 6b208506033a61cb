"""Encryption at rest: which keys are taken, where they must not show, and files that do not fit the key."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from localstore import LocalConfiguration, Realm, SyncConfiguration
from localstore.errors import StoreUnusable
from localstore.store.driver import check_encrypts, connect
from localstore.store.open_file import StoreOptions
from tests.unit.session_kit import PATIENCE, Note, World, add, texts

pytest.importorskip("sqlcipher3", reason="needs the extra cipher")

ROOT = Path(__file__).parents[2]
KEY = b"very-secret-".ljust(32, b"!")
OTHER_KEY = b"another-secret-".ljust(32, b"!")

Configure = Callable[..., LocalConfiguration | SyncConfiguration]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.db"


@pytest.fixture(params=["local", "synced"])
def configure(request: pytest.FixtureRequest, world: World, path: Path) -> Configure:
    """Makes configurations of one file, of either kind."""
    if request.param == "local":
        return lambda **options: LocalConfiguration(path=path, schema={Note}, **options)
    return world.device("one", path=path).configuration


def make(configuration: LocalConfiguration | SyncConfiguration, *words: str) -> None:
    """A file with notes in it, closed."""
    with Realm.open(configuration) as realm:
        add(realm, *words)
        if isinstance(configuration, SyncConfiguration):
            assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    if isinstance(configuration, SyncConfiguration):
        assert configuration.user.app.sync.wait_for_sessions_to_terminate(PATIENCE)


def shows_a_key(text: str) -> bool:
    return any(key.decode()[:8] in text or key.hex() in text.lower() for key in (KEY, OTHER_KEY))


def in_new_process(script: str, *args: object) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "adapters")))}
    done = subprocess.run([sys.executable, "-c", script, *map(str, args)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- keys


def test_what_was_written_with_a_key_is_read_with_it(configure: Configure) -> None:
    make(configure(encryption_key=KEY), "a", "ä 💾")
    with Realm.open(configure(encryption_key=KEY)) as realm:
        assert texts(realm) == ["a", "ä 💾"]


def test_an_encrypted_file_is_no_sqlite_database_to_others(configure: Configure, path: Path) -> None:
    make(configure(encryption_key=KEY), "a")
    assert not path.read_bytes().startswith(b"SQLite format 3")
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        connection.execute("SELECT * FROM sqlite_master")


def test_sqlcipher_opens_the_file_with_the_key_in_hexadecimal(configure: Configure, path: Path) -> None:
    import sqlcipher3

    make(configure(encryption_key=KEY), "a")
    with closing(sqlcipher3.connect(str(path))) as connection:
        connection.execute(f"PRAGMA key = \"x'{KEY.hex()}'\"")
        assert connection.execute("SELECT text FROM note").fetchall() == [("a",)]


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 48, 64])
def test_a_key_of_another_length_is_refused_and_not_shown(configure: Configure, path: Path, length: int) -> None:
    with pytest.raises(ValueError, match=rf"32 bytes; this one has {length}.*token_bytes") as caught:
        configure(encryption_key=(KEY * 2)[:length])
    assert not shows_a_key(str(caught.value))
    assert not path.exists()


@pytest.mark.parametrize("key", [KEY.decode(), KEY.hex(), bytearray(KEY), memoryview(KEY), 5, [1], False])
def test_a_key_that_is_not_bytes_is_refused_and_not_shown(configure: Configure, path: Path, key: object) -> None:
    with pytest.raises(TypeError, match=rf"32 bytes, not of type {type(key).__name__}.*scrypt") as caught:
        configure(encryption_key=key)
    assert not shows_a_key(str(caught.value))
    assert not path.exists()


def test_two_devices_sync_whether_their_files_are_encrypted_or_not(world: World, tmp_path: Path) -> None:
    plain, one, two = (world.device(name).open(encryption_key=key) for name, key in [("a", None), ("b", KEY), ("c", OTHER_KEY)])
    for realm, word in [(plain, "plain"), (one, "one"), (two, "two")]:
        add(realm, word)
        assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    for realm in (plain, one, two):
        assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)
        assert texts(realm) == ["one", "plain", "two"]


# -- where a key must not show


def test_configurations_do_not_show_their_key(configure: Configure) -> None:
    configuration = configure(encryption_key=KEY)
    assert configuration.encryption_key == KEY
    assert not shows_a_key(repr(configuration) + str(configuration))
    assert not shows_a_key(repr(StoreOptions(encryption_key=KEY)))


def test_logs_do_not_show_the_key(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="sqlalchemy")
    caplog.set_level(logging.DEBUG)
    make(configure(encryption_key=KEY), "a")
    assert "INSERT INTO note" in caplog.text
    assert "SELECT" in caplog.text
    assert not shows_a_key(caplog.text)


def test_errors_do_not_show_the_key(configure: Configure) -> None:
    make(configure(encryption_key=KEY), "a")
    with pytest.raises(StoreUnusable) as wrong:
        Realm.open(configure(encryption_key=OTHER_KEY))
    assert not shows_a_key("".join(traceback.format_exception(wrong.value)))
    with Realm.open(configure(encryption_key=KEY)) as realm:
        note = realm.exec(select(Note)).one()
        with pytest.raises(IntegrityError) as refused, realm.write() as tx:
            tx.connection().exec_driver_sql("INSERT INTO note (id, text) SELECT id, text FROM note")
        assert note.text == "a"
    assert not shows_a_key("".join(traceback.format_exception(refused.value)))


def test_a_wrong_key_prints_nothing(configure: Configure, capfd: pytest.CaptureFixture[str]) -> None:
    make(configure(encryption_key=KEY), "a")
    with pytest.raises(StoreUnusable):
        Realm.open(configure(encryption_key=OTHER_KEY))
    assert capfd.readouterr() == ("", "")


# -- files that do not fit the key


def test_a_wrong_key_is_said_and_the_file_left_alone(configure: Configure, path: Path) -> None:
    make(configure(encryption_key=KEY), "a")
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"one\.db cannot be read with this encryption_key.*not changed.*key that it was"):
        Realm.open(configure(encryption_key=OTHER_KEY))
    assert path.read_bytes() == before
    with Realm.open(configure(encryption_key=KEY)) as realm:
        assert texts(realm) == ["a"]


def test_a_missing_key_is_said_and_the_file_left_alone(configure: Configure, path: Path) -> None:
    make(configure(encryption_key=KEY), "a")
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"one\.db is not a usable SQLite database: it is encrypted, or.*encryption_key"):
        Realm.open(configure())
    assert path.read_bytes() == before
    with Realm.open(configure(encryption_key=KEY)) as realm:
        assert texts(realm) == ["a"]


def test_a_key_for_a_plain_file_is_said_and_the_file_left_alone(configure: Configure, path: Path) -> None:
    make(configure(), "a")
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"one\.db is not encrypted.*without encryption_key.*write_copy_to"):
        Realm.open(configure(encryption_key=KEY))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["one.db"]
    with Realm.open(configure()) as realm:
        assert texts(realm) == ["a"]


def test_a_key_for_something_else_is_said_and_the_file_left_alone(configure: Configure, path: Path) -> None:
    path.write_text("Dear diary, " * 1000)
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=r"cannot be read with this encryption_key: .*damaged"):
        Realm.open(configure(encryption_key=KEY))
    assert path.read_bytes() == before


def test_a_damaged_page_is_noticed_and_not_read_as_something_else(path: Path) -> None:
    configuration = LocalConfiguration(path=path, schema={Note}, encryption_key=KEY)
    make(configuration, *("x" * 1000 for _ in range(100)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with Realm.open(configuration) as realm, pytest.raises(StoreUnusable, match=r"one\.db"):
        realm.exec(select(Note.text)).all()


def test_an_empty_file_becomes_an_encrypted_one(configure: Configure, path: Path) -> None:
    path.touch()
    make(configure(encryption_key=KEY), "a")
    with pytest.raises(StoreUnusable, match="it is encrypted"):
        Realm.open(configure())


LEAVE_A_LOG_BEHIND = """
import os, sys
from localstore import LocalConfiguration, Realm
from tests.unit.session_kit import Note, add

key = bytes.fromhex(sys.argv[2]) if len(sys.argv) > 2 else None
realm = Realm.open(LocalConfiguration(path=sys.argv[1], schema={Note}, encryption_key=key))
add(realm, "a", "b")
os._exit(0)
"""


@pytest.mark.parametrize("wrong", [None, OTHER_KEY], ids=["no key", "another key"])
def test_what_a_crash_left_in_the_log_survives_the_wrong_key(path: Path, wrong: bytes | None) -> None:
    in_new_process(LEAVE_A_LOG_BEHIND, path, KEY.hex())
    assert path.with_name("one.db-wal").stat().st_size > 0
    with pytest.raises(StoreUnusable):
        Realm.open(LocalConfiguration(path=path, schema={Note}, encryption_key=wrong))
    with Realm.open(LocalConfiguration(path=path, schema={Note}, encryption_key=KEY)) as realm:
        assert texts(realm) == ["a", "b"]


def test_what_a_crash_left_in_a_plain_log_survives_a_key(path: Path) -> None:
    in_new_process(LEAVE_A_LOG_BEHIND, path)
    assert path.with_name("one.db-wal").stat().st_size > 0
    with pytest.raises(StoreUnusable):
        Realm.open(LocalConfiguration(path=path, schema={Note}, encryption_key=KEY))
    with Realm.open(LocalConfiguration(path=path, schema={Note})) as realm:
        assert texts(realm) == ["a", "b"]


# -- one file, one key


@pytest.mark.parametrize(
    ("first", "second"),
    [(KEY, OTHER_KEY), (KEY, None), (None, KEY)],
    ids=["another key", "no key", "a key for a plain file"],
)
def test_a_file_that_is_open_cannot_be_opened_with_another_key(
    configure: Configure, first: bytes | None, second: bytes | None
) -> None:
    with Realm.open(configure(encryption_key=first)) as realm:
        add(realm, "a")
        with pytest.raises(StoreUnusable, match=r"one\.db .*encryption_key"):
            Realm.open(configure(encryption_key=second))
        add(realm, "b")
        with Realm.open(configure(encryption_key=first)) as again:
            assert texts(again) == ["a", "b"]


def test_a_file_can_have_another_key_when_it_is_another_file(configure: Configure, path: Path) -> None:
    make(configure(encryption_key=KEY), "a")
    path.unlink()
    with Realm.open(configure(encryption_key=OTHER_KEY)) as realm:
        add(realm, "b")
        assert "b" in texts(realm)


TRY_TO_WRITE = """
import sqlite3, sys
from contextlib import closing

with closing(sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)) as connection:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        print(error)
    else:
        print("no lock is left")
"""


def test_a_key_for_an_open_plain_file_does_not_cost_it_its_locks(path: Path) -> None:
    """Two SQLite libraries on one file in one process lose each other's locks, so the second must not even look at it."""
    plain = LocalConfiguration(path=path, schema={Note})
    with Realm.open(plain) as realm, realm.write() as tx:
        tx.add(Note(text="a"))
        tx.flush()
        assert in_new_process(TRY_TO_WRITE, path) == "database is locked"
        with pytest.raises(StoreUnusable):
            Realm.open(LocalConfiguration(path=path, schema={Note}, encryption_key=KEY))
        assert in_new_process(TRY_TO_WRITE, path) == "database is locked"


def test_a_copy_with_a_key_does_not_cost_an_open_plain_file_its_locks(path: Path) -> None:
    with Realm.open(LocalConfiguration(path=path, schema={Note})) as realm, realm.write() as tx:
        tx.add(Note(text="a"))
        tx.flush()
        realm.write_copy_to(LocalConfiguration(path=path.with_name("copy.db"), encryption_key=KEY))
        assert in_new_process(TRY_TO_WRITE, path) == "database is locked"


# -- without the extra


WITHOUT_THE_EXTRA = """
import sys
sys.modules["sqlcipher3"] = sys.modules["sqlcipher3.dbapi2"] = None
from pathlib import Path
from localstore import App, Credentials, LocalConfiguration, Realm, SyncConfiguration
from tests.unit.session_kit import Note, add

path, key = Path(sys.argv[1]), b"k" * 32

def refused(function):
    try:
        function()
    except ImportError as error:
        assert "pip install 'localstore-sync[cipher]'" in str(error), error
        assert [file.name for file in path.parent.iterdir() if file.name != "one.db"] == []
    else:
        raise AssertionError("not refused")

refused(lambda: Realm.open(LocalConfiguration(path=path.with_name("two.db"), schema={Note}, encryption_key=key)))
with App.create("kit", remote="memory://kit") as app:
    user = app.login(Credentials.anonymous())
    refused(lambda: Realm.open(SyncConfiguration(user, {Note}, path=path.with_name("two.db"), encryption_key=key)))
with Realm.open(LocalConfiguration(path=path, schema={Note})) as realm:
    add(realm, "a")
    try:
        realm.write_copy_to(LocalConfiguration(path=path.with_name("two.db"), encryption_key=key))
    except ImportError as error:
        assert "localstore-sync[cipher]" in str(error)
    else:
        raise AssertionError("not refused")
    assert not path.with_name("two.db").exists()
    realm.write_copy_to(LocalConfiguration(path=path.with_name("three.db")))
print(path.with_name("three.db").exists())
"""


def test_without_the_extra_a_key_is_refused_before_anything_is_made_and_the_rest_works(path: Path) -> None:
    assert in_new_process(WITHOUT_THE_EXTRA, path) == "True"


def test_the_driver_is_not_imported_without_a_key(path: Path) -> None:
    script = LEAVE_A_LOG_BEHIND.replace("os._exit(0)", "realm.close(); print('sqlcipher3' in sys.modules)")
    assert in_new_process(script, path) == "False"


def test_a_driver_that_does_not_encrypt_is_refused() -> None:
    import sqlcipher3.dbapi2

    check_encrypts(sqlcipher3.dbapi2)
    with pytest.raises(ImportError, match=r"would not encrypt.*pip install"):
        check_encrypts(sqlite3)


def test_temporary_tables_stay_in_memory(path: Path) -> None:
    with closing(connect(path, KEY)) as connection:
        settings: list[Any] = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("temp_store", "cipher_version")]
    assert settings[0] == 2
    assert settings[1].startswith("4.")
