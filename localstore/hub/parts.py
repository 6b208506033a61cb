"""What the endpoints of one hub share, as one value."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from localstore.adapter import Capabilities
from localstore.environment import Environment
from localstore.hub.access import Accounts
from localstore.hub.events import Events
from localstore.hub.lines import Lines
from localstore.hub.metrics import Metrics
from localstore.hub.rates import Rates
from localstore.hub.settings import HubSettings

__all__ = ["HubParts", "Owners", "Reading"]

_MAX_OWNERS = 50_000


@dataclass(slots=True)
class Reading:
    """How many bytes of requests are held that are not answered yet."""

    byte_count: int = 0


class Owners:
    """Which user a device is known to belong to: a cache, as that is for good once it is known."""

    def __init__(self) -> None:
        self._users: OrderedDict[tuple[str, bytes], str] = OrderedDict()

    def knows(self, partition: str, device: bytes, user_id: str) -> bool:
        return self._users.get((partition, device)) == user_id

    def add(self, partition: str, device: bytes, user_id: str) -> None:
        self._users[partition, device] = user_id
        if len(self._users) > _MAX_OWNERS:
            self._users.popitem(last=False)


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
        metrics: what is counted.
        owners: of devices.
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
    metrics: Metrics
    owners: Owners = field(default_factory=Owners)
    reading: Reading = field(default_factory=Reading)
