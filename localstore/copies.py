"""Which kind of copy a configuration asks for. How each is made is the store's part."""

from __future__ import annotations

from localstore.configuration import (
    LocalConfiguration,
    SyncConfiguration,
    check_configuration,
    owner_of,
    path_of,
    prepare_place,
)
from localstore.options import store_options
from localstore.schema import check_synced, tables_of
from localstore.store.copy import copy_plain
from localstore.store.file import Store
from localstore.store.synced_copy import SyncedTarget, copy_as_another_device, copy_to_upload

__all__ = ["write_copy"]

Configuration = SyncConfiguration | LocalConfiguration


def write_copy(store: Store, source: Configuration, target: Configuration, *, with_unsent: bool) -> None:
    """Copy an open file to where another configuration says, and as it says.

    Args:
        store: the open file.
        source: what it was opened with.
        target: of the copy.
        with_unsent: see ``Realm.write_copy_to``.

    Raises:
        TypeError, ValueError: the target is none.
        SchemaError: its schema cannot be synced.
        UnsentChanges, TargetExists, StoreUnusable, SchemaMismatch, ImportError: as ``Realm.write_copy_to`` says.
    """
    check_configuration(target)
    if target.in_memory:
        raise ValueError("write_copy_to writes a file: give it a configuration without in_memory.")
    path = path_of(target)
    if isinstance(target, LocalConfiguration):
        copy_plain(store.path, path, source_key=source.encryption_key, target_key=target.encryption_key)
        return
    wanted = _synced_target(target)
    prepare_place(target)
    if _history_of(source) == _history_of(target):
        copy_as_another_device(store, wanted, with_unsent=with_unsent)
    else:
        copy_to_upload(store, wanted)


def _history_of(configuration: Configuration) -> tuple[str, str] | None:
    """Which history a file is kept in step with, whoever does it; None for a local one."""
    owner = owner_of(configuration)
    return None if owner is None else (owner.app, owner.partition)


def _synced_target(target: SyncConfiguration) -> SyncedTarget:
    prepare_place(target)
    tables = tables_of(target.schema)
    check_synced(tables)
    app = target.user.app
    return SyncedTarget(
        path=path_of(target),
        app=app.id,
        partition=target.partition,
        user=target.user.id,
        tables=tables,
        options=store_options(app.settings, target.encryption_key),
    )
