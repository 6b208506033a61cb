"""The part of the settings that concerns files, and what may be given for settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localstore.store.open_file import StoreOptions

if TYPE_CHECKING:
    from localstore.settings import Settings

__all__ = ["check_settings", "store_options"]


def check_settings(settings: object) -> None:
    """Raise ``TypeError`` for what is no ``Settings``, without saying what it is: it may hold a password."""
    if settings is None:
        return
    from localstore.settings import Settings

    if not isinstance(settings, Settings):
        raise TypeError(f"settings takes Settings(...), not of type {type(settings).__name__}.")


def store_options(settings: Settings, encryption_key: bytes | None = None) -> StoreOptions:
    """The part of the settings that concerns files, with the file's own key."""
    return StoreOptions(
        busy_timeout=settings.busy_timeout,
        synchronous=settings.synchronous,
        max_changeset_bytes=settings.max_changeset_bytes,
        max_changeset_rows=settings.max_changeset_rows,
        max_clock_drift=settings.max_clock_drift,
        conflicts_max_age=settings.conflicts_max_age,
        conflicts_max_count=settings.conflicts_max_count,
        client_maximum_offline_time=settings.client_maximum_offline_time,
        encryption_key=encryption_key,
    )
