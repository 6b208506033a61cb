"""Compacting: the room of deleted rows is given back, nothing else changes, and nobody is disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import Any

import pytest

from localstore import App, Credentials, LocalConfiguration, Realm, SyncConfiguration
from localstore.errors import StoreUnusable
from localstore.store.files import is_half_empty
from tests.unit.session_kit import Note, Seat, World, add, in_loop, is_let_go, numbers, sql, texts

Configuration = LocalConfiguration | SyncConfiguration
EVERYTHING = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        world.remote.go_offline()
        yield world


@pytest.fixture(params=["local", "synced"])
def configure(request: pytest.FixtureRequest, world: World) -> Callable[..., Configuration]:
    """A configuration of each kind for the same path."""
    device = world.device("one", busy_timeout=5)

    def make(**options: Any) -> Configuration:
        if request.param == "local":
            return LocalConfiguration(path=device.path, **{"schema": {Note, Seat}, **options})
        return device.configuration(**{"schema": {Note, Seat}, "stop_policy": "immediately", **options})

    return make


@pytest.fixture
def hollow(configure: Callable[..., Configuration]) -> Configuration:
    """A closed file, most of which was deleted again."""
    configuration = configure()
    with Realm.open(configuration) as realm:
        add(realm, "kept", *("x" * 1000 for _ in range(1000)))
        with realm.write() as tx:
            tx.connection().exec_driver_sql("DELETE FROM note WHERE text <> 'kept'")
            tx.add(Seat(room="A", number=1, guest="Emma"))
            if isinstance(configuration, SyncConfiguration):
                tx.connection().exec_driver_sql("DELETE FROM localstore_outbox WHERE number = 1")
    assert is_let_go(Path(configuration.path))
    return configuration


def contents(path: Path) -> dict[str, list[Any]]:
    """All that is in a file, table by table."""
    found = {"": sql(path, EVERYTHING), "user_version": sql(path, "PRAGMA user_version")}
    for (name,) in sql(path, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        found[name] = sorted(sql(path, f'SELECT * FROM "{name}"'), key=repr)
    return found


def size(configuration: Configuration) -> int:
    return Path(configuration.path).stat().st_size


class TestCompact:
    def test_a_file_gets_smaller_and_keeps_everything(self, hollow: Configuration) -> None:
        path = Path(hollow.path)
        sql(path, "PRAGMA user_version = 42")
        before, everything = size(hollow), contents(path)
        assert Realm.compact(hollow) is True
        assert size(hollow) < before / 3
        assert contents(path) == everything
        assert sql(path, "PRAGMA integrity_check") == [("ok",)]
        assert sql(path, "PRAGMA journal_mode") == [("wal",)]

    def test_it_goes_on_as_before(self, hollow: Configuration) -> None:
        Realm.compact(hollow)
        with Realm.open(hollow) as realm:
            add(realm, "new")
            assert texts(realm) == ["kept", "new"]
            assert numbers(realm) == ([2, 3] if isinstance(hollow, SyncConfiguration) else [])

    def test_it_leaves_nothing_beside_the_file(self, hollow: Configuration) -> None:
        Realm.compact(hollow)
        path = Path(hollow.path)
        assert sorted(found.name for found in path.parent.glob("one*")) == [path.name]

    def test_what_a_killed_program_left_in_the_log_is_kept(self, hollow: Configuration, tmp_path: Path) -> None:
        path = Path(hollow.path)
        with closing(connect(path, isolation_level=None)) as other:
            other.execute("UPDATE note SET text = 'in the log'")
            left = {suffix: path.with_name(path.name + suffix).read_bytes() for suffix in ("", "-wal")}
        for suffix, data in left.items():
            (tmp_path / f"left.db{suffix}").write_bytes(data)
        configuration = LocalConfiguration(path=tmp_path / "left.db", schema={Note})
        if isinstance(hollow, SyncConfiguration):
            configuration = SyncConfiguration(hollow.user, {Note}, path=tmp_path / "left.db")  # type: ignore[assignment]
        assert Realm.compact(configuration) is True
        assert sql(tmp_path / "left.db", "SELECT text FROM note") == [("in the log",)]

    def test_a_file_that_is_open_is_left_alone(self, hollow: Configuration) -> None:
        before = size(hollow)
        with Realm.open(hollow) as realm:
            assert Realm.compact(hollow) is False
            assert texts(realm) == ["kept"]
        assert size(hollow) == before

    def test_also_one_that_another_program_has_open(self, hollow: Configuration) -> None:
        with closing(connect(hollow.path, isolation_level=None)) as other:
            other.execute("SELECT count(*) FROM note").fetchall()
            assert Realm.compact(hollow) is False
        assert Realm.compact(hollow) is True

    def test_a_file_that_is_not_there_is_an_error(self, configure: Callable[..., Configuration]) -> None:
        with pytest.raises(FileNotFoundError, match=r"one\.db"):
            Realm.compact(configure())
        assert not Path(configure().path).exists()

    def test_what_is_no_database_is_left_as_it_is(self, configure: Callable[..., Configuration]) -> None:
        path = Path(configure().path)
        path.write_bytes(b"precious" * 1000)
        with pytest.raises(StoreUnusable):
            Realm.compact(configure())
        assert path.read_bytes() == b"precious" * 1000

    def test_an_event_loop_may_ask_for_it(self, hollow: Configuration) -> None:
        before = size(hollow)
        assert in_loop(Realm.compact_async(hollow)) is True
        assert size(hollow) < before


def test_a_synced_file_is_not_compacted_as_a_local_one(world: World) -> None:
    device = world.device("one")
    device.open(stop_policy="immediately").close()
    with pytest.raises(StoreUnusable, match="SyncConfiguration"):
        Realm.compact(LocalConfiguration(path=device.path))


class TestAtLaunch:
    def test_it_is_asked_with_the_files_sizes_before_anything_is_read(self, hollow: Configuration, configure: Any) -> None:
        asked = []

        def ask(total: int, used: int) -> bool:
            asked.append((total, used))
            return True

        before = size(hollow)
        with Realm.open(configure(compact_on_launch=ask)) as realm:
            assert texts(realm) == ["kept"]
            assert size(hollow) < before / 3
        ((total, used),) = asked
        assert total == before
        assert 0 < used < total / 3
        assert size(hollow) <= used

    def test_a_refusal_leaves_the_file_as_large_as_it_is(self, hollow: Configuration, configure: Any) -> None:
        before = size(hollow)
        with Realm.open(configure(compact_on_launch=lambda total, used: False)) as realm:
            assert texts(realm) == ["kept"]
        assert size(hollow) == before

    def test_true_means_when_it_is_worth_while(self, hollow: Configuration, configure: Any) -> None:
        before = size(hollow)
        Realm.open(configure(compact_on_launch=True)).close()
        assert size(hollow) == before  # too small a file

    @pytest.mark.parametrize(
        ("total", "used", "worthwhile"),
        [
            (50 * 1024 * 1024, 1, False),
            (50 * 1024 * 1024 + 1, 1, True),
            (100 * 1024 * 1024, 50 * 1024 * 1024, False),
            (100 * 1024 * 1024, 50 * 1024 * 1024 - 1, True),
        ],
    )
    def test_worth_while_is_a_large_file_that_is_half_empty(self, total: int, used: int, worthwhile: bool) -> None:
        assert is_half_empty(total, used) is worthwhile

    def test_a_file_that_is_open_elsewhere_is_not_asked_about(self, hollow: Configuration, configure: Any) -> None:
        asked: list[int] = []
        with Realm.open(hollow):
            other = Realm.open(configure(compact_on_launch=lambda total, used: asked.append(total) or True))
            assert texts(other) == ["kept"]
            other.close()
        assert asked == []

    def test_a_new_file_is_not_asked_about(self, configure: Any) -> None:
        asked: list[int] = []
        Realm.open(configure(compact_on_launch=lambda total, used: asked.append(total) or True)).close()
        assert asked == []

    def test_what_the_function_raises_is_raised_and_the_file_free_again(self, hollow: Configuration, configure: Any) -> None:
        def fail(total: int, used: int) -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            Realm.open(configure(compact_on_launch=fail))
        with Realm.open(hollow) as realm:
            assert texts(realm) == ["kept"]

    def test_what_cannot_be_opened_is_said_by_the_opening_and_left_as_it_is(self, configure: Any) -> None:
        path = Path(configure().path)
        path.write_bytes(b"precious" * 1000)
        with pytest.raises(StoreUnusable, match="not a usable SQLite database"):
            Realm.open(configure(compact_on_launch=lambda total, used: True))
        assert path.read_bytes() == b"precious" * 1000

    def test_another_apps_file_is_not_compacted(self, world: World) -> None:
        path = world.device("one").open(stop_policy="immediately").path
        for device in world._devices:
            device.close()
        asked: list[int] = []
        with App.create("other", remote=world.remote.adapter) as other:
            config = SyncConfiguration(
                other.login(Credentials.anonymous()),
                {Note},
                path=path,
                compact_on_launch=lambda total, used: asked.append(total) or True,  # type: ignore[func-returns-value]
            )
            with pytest.raises(StoreUnusable, match="belongs to the application"):
                Realm.open(config)
        assert asked == []

    @pytest.mark.parametrize("choice", [None, 1, "yes"])
    def test_it_is_a_bool_or_a_function(self, configure: Any, choice: Any) -> None:
        with pytest.raises(TypeError, match="compact_on_launch"):
            configure(compact_on_launch=choice)
