"""How often one may try to log in: a bucket of tries for each address and each email, which fills up again with time.

What is counted are failures: a try that succeeds is given back, so that many devices behind one address are no flood. In the
memory of one process: several of them allow several times as much. This module knows neither HTTP nor users.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from localstore.errors import RateLimited

__all__ = ["Limit", "LogInLimits", "Tries", "network_of"]

_KNOWN_MAX = 50_000


@dataclass(frozen=True)
class Limit:
    """So many tries at once, and one more every so many seconds."""

    burst: int
    seconds: float


class Tries:
    """What is left to each of many. Those who have all their tries are not remembered; beyond a bound, the oldest neither."""

    def __init__(self, limit: Limit, monotonic: Callable[[], float], known_max: int = _KNOWN_MAX) -> None:
        self._limit = limit
        self._monotonic = monotonic
        self._known_max = known_max
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, who: str) -> float:
        """How many seconds until there is a try left; 0 when there is."""
        missing = max(0.0, self._full_at.get(who, 0.0) - self._monotonic())
        return max(0.0, missing - (self._limit.burst - 1) * self._limit.seconds)

    def take(self, who: str) -> None:
        """Use one."""
        now = self._monotonic()
        self._full_at[who] = max(now, self._full_at.get(who, 0.0)) + self._limit.seconds
        self._full_at.move_to_end(who)
        while self._full_at and (len(self._full_at) > self._known_max or next(iter(self._full_at.values())) <= now):
            self._full_at.popitem(last=False)

    def give_back(self, who: str) -> None:
        """It was not for nothing."""
        if who in self._full_at:
            self._full_at[who] -= self._limit.seconds


class LogInLimits:
    """Of one process.

    Args:
        address, email: for each of them.
        monotonic: seconds on a clock that never steps back.
    """

    def __init__(self, address: Limit, email: Limit, monotonic: Callable[[], float]) -> None:
        self._by_address, self._by_email = Tries(address, monotonic), Tries(email, monotonic)

    def take(self, address: str, email: str | None) -> None:
        """Use a try of an address, and of an email where there is one.

        Raises:
            RateLimited: there is none left; says when there will be.
        """
        place = network_of(address)
        wait = max(self._by_address.wait(place), 0.0 if email is None else self._by_email.wait(email))
        if wait > 0:
            raise RateLimited("Too many tries to log in.", retry_after=wait, hint="Wait before you try again.")
        self._by_address.take(place)
        if email is not None:
            self._by_email.take(email)

    def give_back(self, address: str, email: str | None) -> None:
        """The log-in succeeded."""
        self._by_address.give_back(network_of(address))
        if email is not None:
            self._by_email.give_back(email)


def network_of(address: str) -> str:
    """Whom an address belongs to: of IPv6 everybody has some 2^64."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if found.version == 4:
        return str(found)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
