"""What a session is made of, as one value that is handed down."""

from __future__ import annotations

from dataclasses import dataclass

from localstore.environment import Environment
from localstore.registry import AdapterFactory
from localstore.store.file import Store
from localstore.sync.loop import BackgroundLoop
from localstore.sync.retry import BackoffPolicy
from localstore.sync.tokens import UserTokens

__all__ = ["Limits", "SessionParts"]


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


@dataclass(frozen=True, kw_only=True)
class SessionParts:
    """What a session is made of.

    Attributes:
        store: the file.
        app, partition: whose data it is.
        make_adapter: a new line to the remote; called once for each life of the cycle.
        loop: where the cycle runs.
        environment: the world.
        limits, backoff: figures.
        tokens: the user's; None where the remote has no users.
    """

    store: Store
    app: str
    partition: str
    make_adapter: AdapterFactory
    loop: BackgroundLoop
    environment: Environment
    limits: Limits
    backoff: BackoffPolicy
    tokens: UserTokens | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error may quote."""
        return () if self.tokens is None else self.tokens.secrets
