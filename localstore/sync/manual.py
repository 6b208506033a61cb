"""The client reset that an application carries out by itself: copy the file, delete it, and let it be made anew."""

from __future__ import annotations

from pathlib import Path

from localstore.errors import ClientResetRequired, ResetRequired
from localstore.store import files
from localstore.store.alone import alone_with
from localstore.store.backup import write_backup
from localstore.store.copy import copy_plain
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.files import Owner
from localstore.store.state import load_state
from localstore.sync.backups import free_path
from localstore.sync.parts import SessionParts

__all__ = ["manual_reset"]


def manual_reset(parts: SessionParts, error: ResetRequired) -> ClientResetRequired:
    """What to tell the application, with the means to do it.

    Args:
        parts: of the session, which has ended when the means are used.
        error: why a reset is needed.
    """
    path, now_ms = parts.store.path, parts.environment.now_ms()
    execution = _Execution(parts, recovery=free_path(path, "recovered", now_ms), backup=free_path(path, "backup", now_ms))
    return ClientResetRequired(error, original_path=path, recovery_path=execution.recovery, execute=execution.run)


class _Execution:
    """Copies a file that nobody has open, and deletes it."""

    def __init__(self, parts: SessionParts, *, recovery: Path, backup: Path) -> None:
        self._parts = parts
        self._path = parts.store.path
        self._key = parts.store.options.encryption_key
        self._device = parts.store.state().device
        self._backup = backup
        self.recovery = recovery

    def run(self) -> bool:
        """See ``ClientResetRequired.execute``. Broken off at any point, the file is still there, or its copies are."""
        if not self._path.exists():
            return False
        with alone_with(self._path, self._key) as connection, connection.begin():
            state = load_state(driver_connection(connection))
        if state.device != self._device:
            return False
        for copy in (self.recovery, self._backup):  # of an attempt that came to no end
            copy.unlink(missing_ok=True)
        copy_plain(self._path, self.recovery, source_key=self._key, target_key=self._key)
        store = Store(self._path, synced=True, options=self._parts.store.options, now_ms=self._parts.environment.now_ms)
        try:
            store.connect()
            write_backup(store, self._backup)
        finally:
            store.close()
        files.delete(self._path, Owner(state.app, state.partition, state.user), key=self._key, discard_unsent=True)
        return True
