"""What is done to whole files, when they are encrypted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localstore import LocalConfiguration, Realm
from localstore.errors import StoreBusy, StoreUnusable
from tests.unit.session_kit import Note, add, texts

pytest.importorskip("sqlcipher3", reason="needs the extra cipher")

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


@pytest.fixture
def config(tmp_path: Path) -> LocalConfiguration:
    return LocalConfiguration(path=tmp_path / "secret.db", schema={Note}, encryption_key=KEY)


@pytest.fixture
def closed(config: LocalConfiguration) -> LocalConfiguration:
    """One whose file is there, most of it deleted again."""
    with Realm.open(config) as realm:
        add(realm, "kept", *("x" * 1000 for _ in range(500)))
        with realm.write() as tx:
            tx.connection().exec_driver_sql("DELETE FROM note WHERE text <> 'kept'")
    return config


def data_of(config: LocalConfiguration) -> bytes:
    return Path(config.path).read_bytes()


def test_compacting_keeps_it_encrypted(closed: LocalConfiguration) -> None:
    before = len(data_of(closed))
    assert Realm.compact(closed) is True
    assert len(data_of(closed)) < before / 3
    assert b"kept" not in data_of(closed)
    with Realm.open(closed) as realm:
        assert texts(realm) == ["kept"]


def test_also_at_launch(closed: LocalConfiguration) -> None:
    before = len(data_of(closed))
    with Realm.open(replace(closed, compact_on_launch=lambda total, used: True)) as realm:
        assert texts(realm) == ["kept"]
    assert len(data_of(closed)) < before / 3


def test_it_is_deleted_with_its_key(closed: LocalConfiguration, tmp_path: Path) -> None:
    assert Realm.delete_files(closed) is True
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [None, OTHER_KEY], ids=["none", "another"])
@pytest.mark.parametrize("use", [Realm.delete_files, Realm.compact])
def test_and_with_no_other(closed: LocalConfiguration, use: Any, key: bytes | None) -> None:
    before = data_of(closed)
    with pytest.raises(StoreUnusable, match="encrypt"):
        use(replace(closed, encryption_key=key))
    assert data_of(closed) == before


def test_not_while_it_is_open(closed: LocalConfiguration) -> None:
    with Realm.open(closed) as realm:
        with pytest.raises(StoreBusy):
            Realm.delete_files(closed)
        with pytest.raises(StoreUnusable, match="already open"):
            Realm.delete_files(replace(closed, encryption_key=None))
        assert Realm.compact(closed) is False
        add(realm, "b")
        assert texts(realm) == ["b", "kept"]


def test_first_data_that_fails_leaves_no_file(config: LocalConfiguration, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Realm.open(replace(config, initial_data=lambda session: 1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_in_memory_too_nothing_is_readable(config: LocalConfiguration) -> None:
    with Realm.open(replace(config, in_memory=True)) as realm:
        add(realm, "kept secret")
        found = [path.read_bytes() for path in realm.path.parent.iterdir() if path.is_file()]
        assert sum(map(len, found)) > 4096
        assert not any(b"kept secret" in data for data in found)
        before = realm.version
        with realm.read() as snapshot:
            add(realm, "b")
            assert snapshot.connection().exec_driver_sql("SELECT text FROM note").all() == [("kept secret",)]
        assert realm.version > before
