"""What the endpoints of one hub share, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from localstore.adapter import Capabilities
from localstore.environment import Environment
from localstore.hub.access import Accounts
from localstore.hub.events import Events
from localstore.hub.lines import Lines
from localstore.hub.metrics import Metrics
from localstore.hub.rates import Rates, Shares
from localstore.hub.settings import HubSettings
from localstore.hub.snapshot_maker import SnapshotMaker

__all__ = ["HubParts", "Reading"]


@dataclass(slots=True)
class Reading:
    """How many bytes of requests are held that are not answered yet."""

    byte_count: int = 0


@dataclass(frozen=True, kw_only=True)
class HubParts:
    """Everything that an endpoint may use.

    Attributes:
        settings: of the hub.
        environment: time and randomness.
        accounts: who is who.
        capabilities: of the log.
        lines: to the log.
        events: what listeners are told.
        users, addresses: how often each may ask.
        waiting: how many streams and polls of each user are open.
        metrics: what is counted.
        snapshots: makes them, and trims the log.
        reading: what requests hold.
    """

    settings: HubSettings
    environment: Environment
    accounts: Accounts
    capabilities: Capabilities
    lines: Lines
    events: Events
    users: Rates
    addresses: Rates
    waiting: Shares
    metrics: Metrics
    snapshots: SnapshotMaker
    reading: Reading = field(default_factory=Reading)
