"""localstore: a local-first store for Python applications.

SQLModel classes are the schema, one SQLite file on the device holds the data, and a background session keeps it in step
with other devices through any remote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from localstore.app import App
from localstore.client_reset import ClientResetReport, Discard, Manual, Recover, RecoverOrDiscard, SeedRemote
from localstore.configuration import LocalConfiguration, SyncConfiguration
from localstore.credentials import Credentials
from localstore.ids import uuid7
from localstore.realm import Realm
from localstore.reasons import ResetReason
from localstore.sync.progress import Direction, Progress, ProgressMode
from localstore.sync.state import ConnectionState, ConnectionStateChange, SessionState
from localstore.sync.status import Reason, SyncStatus
from localstore.user import User, UserState
from localstore.version import VERSION

if TYPE_CHECKING:
    from localstore.settings import Settings

__all__ = [
    "App",
    "ClientResetReport",
    "ConnectionState",
    "ConnectionStateChange",
    "Credentials",
    "Direction",
    "Discard",
    "LocalConfiguration",
    "Manual",
    "Progress",
    "ProgressMode",
    "Realm",
    "Reason",
    "Recover",
    "RecoverOrDiscard",
    "ResetReason",
    "SeedRemote",
    "SessionState",
    "Settings",
    "SyncConfiguration",
    "SyncStatus",
    "User",
    "UserState",
    "uuid7",
]
__version__ = VERSION


def __getattr__(name: str) -> Any:
    """Settings cost a fifth of the import time, and most programs never name them."""
    if name == "Settings":
        from localstore.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
