"""What to open: one SQLite file, local or synced, and the classes in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from localstore.client_reset import ClientReset, RecoverOrDiscard, check_client_reset
from localstore.directories import check_safe_name, safe_name
from localstore.options import check_settings
from localstore.schema import Model
from localstore.store import memory
from localstore.store.files import IsWorthwhile, Owner, is_half_empty
from localstore.store.first_data import InitialData, check_initial_data
from localstore.sync.session import ErrorHandler
from localstore.timeouts import at_most
from localstore.user import User

if TYPE_CHECKING:
    from localstore.settings import Settings

__all__ = [
    "DEFAULT_PARTITION",
    "CompactOnLaunch",
    "LocalConfiguration",
    "StopPolicy",
    "SyncConfiguration",
    "existing",
    "located",
    "owner_of",
    "path_of",
    "prepare_place",
    "worth_compacting",
]

DEFAULT_PARTITION = "default"
ENCRYPTION_KEY_BYTES = 32
StopPolicy = Literal["after_changes_uploaded", "immediately"]
CompactOnLaunch = bool | Callable[[int, int], bool]


@dataclass(frozen=True, kw_only=True)
class LocalConfiguration:
    """A realm that never syncs: a plain SQLite file.

    Attributes:
        path: the file; made when it does not exist, its folder must.
        schema: the SQLModel classes in it, or tables of SQLAlchemy Core. Other tables in the file are left alone.
        settings: instead of those from environment and files.
        in_memory: keep nothing on disk; the realm is gone when it is closed, and ``path`` is only the name by which this
            process shares it.
        initial_data: called with a session in the transaction that makes a new file's tables; when it fails there is no
            file.
        compact_on_launch: compact the file before it is opened, unless it is open elsewhere: True when more than half of at
            least 50 MiB is free, or a function that decides by ``(total_bytes, used_bytes)``.
        encryption_key: 32 bytes that the file is encrypted with; None for a plain file. Needs the extra ``cipher``.
    """

    path: str | Path
    schema: Collection[Model] = ()
    settings: Settings | None = None
    in_memory: bool = False
    initial_data: InitialData | None = None
    compact_on_launch: CompactOnLaunch = False
    encryption_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_encryption_key(self.encryption_key)
        _check_file_options(self)
        check_settings(self.settings)
        if self.initial_data is not None and not self.schema:
            raise ValueError("initial_data needs a schema: it is called when the tables are made.")


@dataclass(frozen=True)
class SyncConfiguration:
    """A realm that is kept in step with its app's remote.

    Attributes:
        user: who logged in; a file belongs to one user, and is refused to others.
        schema: the SQLModel classes that are synced, or tables of SQLAlchemy Core. Other tables in the file stay on this
            device.
        path: the file; made when it does not exist, its folder must. Without it the file lies in a directory of the user's
            own, which is made; that of the one user of a remote without users is the working directory.
        name: what the file is called there, ``default.db`` unless set.
        partition: which part of the application's data it holds.
        error_handler: called in the background thread as ``error_handler(session, error)`` with every error that a user
            should know of. Being offline is not one of them. Without a handler errors are logged. Realms on
            the same file share the handler of the one that was opened first.
        client_reset: what to do when the device and the remote cannot go on with each other: ``RecoverOrDiscard()``,
            ``Recover()``, ``Discard()``, ``SeedRemote()`` or ``Manual(...)``. Realms on the same file share that of the one
            that was opened first.
        stop_policy: what closing the realm does when changes are unsent: let the session finish first, or end it. Unsent
            changes stay in the file either way.
        in_memory: keep nothing on disk; the realm is gone when it is closed and its session has ended, unsent changes
            with it. ``path`` is only the name by which this process shares it, and every time it is another device.
        initial_data: called with a session in the transaction that makes a new file's tables; what it writes is synced. When
            it fails there is no file.
        wait_for_initial_remote_data: let ``Realm.open`` return a new file only when what the remote has is in it: seconds to
            wait at most, or True for as long as it takes. ``initial_data`` is called after that. Opening a file
            that is there already never waits.
        compact_on_launch: compact the file before it is opened, unless it is open elsewhere: True when more than half of at
            least 50 MiB is free, or a function that decides by ``(total_bytes, used_bytes)``.
        encryption_key: 32 bytes that the file is encrypted with; None for a plain file. Needs the extra ``cipher``. It
            protects the file on this device, not what is sent to the remote.
    """

    user: User
    schema: Collection[Model]
    path: str | Path | None = None
    name: str | None = field(default=None, kw_only=True)
    partition: str = field(default=DEFAULT_PARTITION, kw_only=True)
    error_handler: ErrorHandler | None = field(default=None, kw_only=True)
    client_reset: ClientReset = field(default_factory=RecoverOrDiscard, kw_only=True)
    stop_policy: StopPolicy = field(default="after_changes_uploaded", kw_only=True)
    in_memory: bool = field(default=False, kw_only=True)
    initial_data: InitialData | None = field(default=None, kw_only=True)
    wait_for_initial_remote_data: float | bool | None = field(default=None, kw_only=True)
    compact_on_launch: CompactOnLaunch = field(default=False, kw_only=True)
    encryption_key: bytes | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.user, User):
            raise TypeError(f"SyncConfiguration takes the User that app.login() returned, not {self.user!r}.")
        self.user.app.users.check_logged_in(self.user)
        if self.name is not None:
            check_safe_name(self.name)
            if self.path is not None:
                raise ValueError("Give path, for any file, or name, for one in the user's directory, not both.")
        if not self.schema:
            raise ValueError("A synced realm needs a schema: the SQLModel classes that it syncs.")
        if not isinstance(self.partition, str):
            raise TypeError(f"partition is a str, not {self.partition!r}.")
        if not self.partition:
            raise ValueError(f"partition must not be empty; the usual one is {DEFAULT_PARTITION!r}.")
        if self.stop_policy not in ("after_changes_uploaded", "immediately"):
            raise ValueError(f"stop_policy is 'after_changes_uploaded' or 'immediately', not {self.stop_policy!r}.")
        if self.error_handler is not None and not callable(self.error_handler):
            raise TypeError(f"error_handler is a function of (session, error), not {self.error_handler!r}.")
        check_client_reset(self.client_reset)
        check_encryption_key(self.encryption_key)
        _check_file_options(self)
        _ = self.remote_data_timeout  # refuses what is no time

    @property
    def waits_for_remote_data(self) -> bool:
        """Whether opening a new file waits for what the remote has."""
        return self.wait_for_initial_remote_data not in (None, False)

    @property
    def remote_data_timeout(self) -> float | None:
        """How many seconds it waits at most, None for as long as it takes."""
        wait = self.wait_for_initial_remote_data
        return None if isinstance(wait, bool) else at_most(wait, name="wait_for_initial_remote_data", for_ever="True")


def check_configuration(given: object) -> None:
    """Raise ``TypeError`` for what is no configuration."""
    if not isinstance(given, SyncConfiguration | LocalConfiguration):
        raise TypeError(f"A configuration is a SyncConfiguration or a LocalConfiguration, not of type {type(given).__name__}.")


def path_of(configuration: SyncConfiguration | LocalConfiguration) -> Path:
    """Where the file lies or shall lie; the name of a realm in memory."""
    check_configuration(configuration)
    path = configuration.path
    if path is None:
        assert isinstance(configuration, SyncConfiguration)
        partition = configuration.partition
        usual = "default.db" if partition == DEFAULT_PARTITION else f"{safe_name(partition)}.db"
        path = configuration.user.app.users.path(configuration.user, configuration.name, usual)
    return Path(path).expanduser().resolve()


def prepare_place(configuration: SyncConfiguration) -> None:
    """Make the user's own directory when the file is to lie there, and have it known as the user's."""
    path = None if configuration.in_memory else path_of(configuration)
    configuration.user.app.users.prepare(configuration.user, path, configuration.encryption_key)


@contextmanager
def located(configuration: SyncConfiguration | LocalConfiguration) -> Iterator[Path]:
    """Where the file lies or shall lie; a realm in memory is kept at least as long as the block."""
    path = path_of(configuration)
    if isinstance(configuration, SyncConfiguration):
        prepare_place(configuration)
    if not configuration.in_memory:
        yield path
        return
    with memory.place(path) as place:
        yield place


def existing(configuration: SyncConfiguration | LocalConfiguration) -> Path | None:
    """Where the file lies, None when there is none."""
    path = path_of(configuration)
    if configuration.in_memory:
        return memory.place_of(path)
    return path if path.exists() else None


def owner_of(configuration: SyncConfiguration | LocalConfiguration) -> Owner | None:
    """Whose synced file it has to be; None for a local one."""
    if isinstance(configuration, LocalConfiguration):
        return None
    return Owner(configuration.user.app.id, configuration.partition, configuration.user.id)


def worth_compacting(configuration: SyncConfiguration | LocalConfiguration) -> IsWorthwhile | None:
    """Decides whether to compact the file at its opening; None when nobody asked for it."""
    chosen = configuration.compact_on_launch
    if isinstance(chosen, bool):
        return is_half_empty if chosen else None
    return chosen


def _check_file_options(configuration: SyncConfiguration | LocalConfiguration) -> None:
    path = configuration.path
    is_left_out = path is None and isinstance(configuration, SyncConfiguration)
    if not is_left_out and not isinstance(path, str | PathLike):
        raise TypeError(f"path is a str or a Path, not {path!r}.")
    if not isinstance(configuration.in_memory, bool):
        raise TypeError(f"in_memory is True or False, not {configuration.in_memory!r}.")
    if configuration.initial_data is not None:
        check_initial_data(configuration.initial_data)
    chosen = configuration.compact_on_launch
    if not isinstance(chosen, bool) and not callable(chosen):
        raise TypeError(f"compact_on_launch is a bool or a function of (total_bytes, used_bytes), not {chosen!r}.")


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
