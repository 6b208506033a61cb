"""``realm.version``: whether anything was committed, by whatever program, without a query."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from sqlite3 import connect

import pytest
from sqlmodel import text

from localstore import LocalConfiguration, Realm
from localstore.errors import RealmClosed
from tests.unit.session_kit import PATIENCE, Note, World, add, eventually, in_background, is_let_go, sql, texts


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@pytest.fixture(params=["local", "synced"])
def realm(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> Iterator[Realm]:
    """Each kind of realm in turn, with nobody but the test at the file."""
    if request.param == "local":
        with Realm.open(LocalConfiguration(path=tmp_path / "local.db", schema={Note})) as local:
            yield local
    else:
        world.remote.go_offline()
        synced = world.device(busy_timeout=5).open(stop_policy="immediately")
        world.at_rest()
        yield synced


def test_it_grows_with_every_commit(realm: Realm) -> None:
    versions = [realm.version]
    for name in "abc":
        add(realm, name)
        versions.append(realm.version)
    assert versions == sorted(set(versions))


def test_a_commit_that_was_not_looked_for_is_noticed_later(realm: Realm) -> None:
    before = realm.version
    add(realm, "a")
    add(realm, "b")
    after = realm.version
    assert after > before
    assert realm.version == after


def test_reading_changes_nothing(realm: Realm) -> None:
    add(realm, "a")
    before = realm.version
    texts(realm)
    with realm.read() as snapshot:
        snapshot.connection()
    realm.pending()
    assert realm.version == before


def test_a_write_that_was_rolled_back_changes_nothing(realm: Realm) -> None:
    before = realm.version
    with suppress(ZeroDivisionError), realm.write() as tx:
        tx.add(Note(text="a"))
        tx.flush()
        _ = 1 / 0
    assert realm.version == before


def test_nor_does_a_rollback_of_more_than_fits_in_the_cache(realm: Realm) -> None:
    before = realm.version
    with suppress(ZeroDivisionError), realm.write() as tx:
        tx.connection().execute(text("PRAGMA cache_size = 10"))
        tx.add_all([Note(text="x" * 1000) for _ in range(500)])
        tx.flush()
        assert realm.path.with_name(realm.path.name + "-wal").stat().st_size > 100_000
        _ = 1 / 0
    assert realm.version == before


def test_a_write_that_writes_nothing_changes_nothing(realm: Realm) -> None:
    before = realm.version
    with realm.write():
        pass
    assert realm.version == before


def test_an_open_write_does_not_count_before_it_is_committed(realm: Realm) -> None:
    before = realm.version
    with realm.write() as tx:
        tx.add(Note(text="a"))
        tx.flush()
        assert realm.version == before
    assert realm.version > before


def test_what_another_program_commits_counts(realm: Realm) -> None:
    before = realm.version
    with closing(connect(realm.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO note VALUES ('0123456789abcdef0123456789abcdef', 'a')")
        assert realm.version == before
        other.execute("COMMIT")
        assert realm.version > before


def test_what_comes_from_other_devices_counts(world: World) -> None:
    one, other = world.open("one"), world.open("other")
    before = one.version
    add(other, "a")
    eventually(lambda: texts(one) == ["a"])
    assert one.version > before


def test_any_thread_may_ask(realm: Realm) -> None:
    before = realm.version

    def ask() -> list[int]:
        return [realm.version for _ in range(200)]

    asked = [in_background(ask) for _ in range(4)]
    for name in "abcd":
        add(realm, name)
    found = [future.result(PATIENCE) for future in asked]
    assert all(versions == sorted(versions) and versions[0] >= before for versions in found)
    assert realm.version > before


def test_asking_keeps_no_state_alive(realm: Realm) -> None:
    """Else the write-ahead log could never be taken back into the file."""
    for name in "abc":
        add(realm, name)
        _ = realm.version
    busy, in_log, taken_back = sql(realm.path, "PRAGMA wal_checkpoint(PASSIVE)")[0]
    assert (busy, in_log) == (0, taken_back)


def test_closing_lets_go_of_the_file(realm: Realm) -> None:
    _ = realm.version
    realm.close()
    assert is_let_go(realm.path)
    with pytest.raises(RealmClosed):
        _ = realm.version
