"""What a session is made of, as one value that is handed down."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localstore.client_reset import ClientReset
from localstore.environment import Environment, SessionLoop
from localstore.registry import AdapterFactory
from localstore.store.file import Store
from localstore.sync.letting_go import Lingering
from localstore.sync.retry import BackoffPolicy
from localstore.sync.tokens import UserTokens

if TYPE_CHECKING:
    from localstore.realm import Realm

__all__ = ["Limits", "ResetParts", "SessionParts"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Time limits (seconds) and page sizes of a session; see ``Settings``."""

    connect_timeout: float
    request_timeout: float
    ping_period: float
    pong_timeout: float
    urgent_pong_timeout: float
    fast_reconnect_limit: float
    poll: float | None
    page_bytes: int
    page_count: int
    snapshot_every: int = 0


@dataclass(frozen=True, kw_only=True)
class ResetParts:
    """What a client reset needs of the application.

    Attributes:
        strategy: what it is to do.
        view: a realm that can only be read, on the file's backup, for the strategy's callbacks.
    """

    strategy: ClientReset
    view: Callable[[Path], AbstractContextManager[Realm]]


@dataclass(frozen=True, kw_only=True)
class SessionParts:
    """What a session is made of.

    Attributes:
        store: the file.
        app, partition: whose data it is.
        make_adapter: a new line to the remote; called for each life of the cycle that finds none.
        lingering: lines that sessions left.
        loop: where the cycle runs.
        environment: the world.
        limits, backoff: figures.
        reset: for a client reset; None when the session is to stop instead.
        tokens: the user's; None where the remote has no users.
    """

    store: Store
    app: str
    partition: str
    make_adapter: AdapterFactory
    lingering: Lingering
    loop: SessionLoop
    environment: Environment
    limits: Limits
    backoff: BackoffPolicy
    reset: ResetParts | None = None
    tokens: UserTokens | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error may quote."""
        return () if self.tokens is None else self.tokens.secrets

    @property
    def is_logged_in(self) -> bool:
        """Whether the user still is."""
        return self.tokens is None or self.tokens.held is not None
