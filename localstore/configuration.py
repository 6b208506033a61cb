"""What to open: one SQLite file, local or synced, and the classes in it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from localstore.app import User
from localstore.schema import Model
from localstore.sync.session import ErrorHandler

if TYPE_CHECKING:
    from localstore.settings import Settings

__all__ = ["DEFAULT_PARTITION", "LocalConfiguration", "StopPolicy", "SyncConfiguration"]

DEFAULT_PARTITION = "default"
ENCRYPTION_KEY_BYTES = 32
StopPolicy = Literal["after_changes_uploaded", "immediately"]


@dataclass(frozen=True, kw_only=True)
class LocalConfiguration:
    """A realm that never syncs: a plain SQLite file.

    Attributes:
        path: the file; made when it does not exist, its folder must.
        schema: the SQLModel classes in it, or tables of SQLAlchemy Core. Other tables in the file are left alone.
        settings: instead of those from environment and files.
        encryption_key: 32 bytes that the file is encrypted with; None for a plain file. Needs the extra ``cipher``.
    """

    path: str | Path
    schema: Collection[Model] = ()
    settings: Settings | None = None
    encryption_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_encryption_key(self.encryption_key)


@dataclass(frozen=True)
class SyncConfiguration:
    """A realm that is kept in step with its app's remote.

    Attributes:
        user: who logged in.
        schema: the SQLModel classes that are synced, or tables of SQLAlchemy Core. Other tables in the file stay on this
            device.
        path: the file; made when it does not exist, its folder must. ``default.db`` unless set.
        partition: which part of the application's data it holds.
        error_handler: called in the background thread as ``error_handler(session, error)`` with every error that a user
            should know of. Being offline is not one of them. Without a handler errors are logged. Realms on
            the same file share the handler of the one that was opened first.
        stop_policy: what closing the realm does when changes are unsent: let the session finish first, or end it. Unsent
            changes stay in the file either way.
        encryption_key: 32 bytes that the file is encrypted with; None for a plain file. Needs the extra ``cipher``. It
            protects the file on this device, not what is sent to the remote.
    """

    user: User
    schema: Collection[Model]
    path: str | Path = "default.db"
    partition: str = field(default=DEFAULT_PARTITION, kw_only=True)
    error_handler: ErrorHandler | None = field(default=None, kw_only=True)
    stop_policy: StopPolicy = field(default="after_changes_uploaded", kw_only=True)
    encryption_key: bytes | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.user, User):
            raise TypeError(f"SyncConfiguration takes the User that app.login() returned, not {self.user!r}.")
        if not self.schema:
            raise ValueError("A synced realm needs a schema: the SQLModel classes that it syncs.")
        if not self.partition:
            raise ValueError(f"partition must not be empty; the usual one is {DEFAULT_PARTITION!r}.")
        if self.stop_policy not in ("after_changes_uploaded", "immediately"):
            raise ValueError(f"stop_policy is 'after_changes_uploaded' or 'immediately', not {self.stop_policy!r}.")
        check_encryption_key(self.encryption_key)


def check_encryption_key(key: object) -> None:
    """Refuse what is no encryption key, without saying what it is.

    Raises:
        TypeError, ValueError: it is of another type or length.
    """
    if key is None:
        return
    if not isinstance(key, bytes):
        raise TypeError(
            f"encryption_key is {ENCRYPTION_KEY_BYTES} bytes, not of type {type(key).__name__}."
            " Make bytes of a passphrase with hashlib.scrypt(..., dklen=32)."
        )
    if len(key) != ENCRYPTION_KEY_BYTES:
        raise ValueError(
            f"encryption_key is {ENCRYPTION_KEY_BYTES} bytes; this one has {len(key)}."
            " Make one with secrets.token_bytes(32), or of a passphrase with hashlib.scrypt(..., dklen=32)."
        )
