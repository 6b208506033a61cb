"""Notices that the network came back or the device woke up, as a hint to try again now.

It is never a gate: whether the remote can be reached, only an attempt tells. What counts as a hint is decided by pure
functions; ``NetworkWatch`` is the shell that runs in the background loop and knows neither sessions nor remotes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import ModuleType

from localstore.environment import Environment, SessionLoop
from localstore.sync.netlink import open_netlink

__all__ = ["QUIET_SECONDS", "TICK_SECONDS", "Clocks", "NetworkWatch", "SystemNetwork", "networks", "quiet_left", "woke_up"]

QUIET_SECONDS = 5.0
"""Hints are passed on at most so often; one that comes earlier is passed on at the end of this time."""
TICK_SECONDS = 15.0
"""How often the clocks are looked at, and the network where the system tells nothing by itself."""
_SLEPT_SECONDS = 1.0
_JUMP_SECONDS = 10.0  # of a clock that may also be set, or a timer that is also late when the computer is busy

_log = logging.getLogger("localstore.sync")


@dataclass(frozen=True, slots=True)
class Clocks:
    """What the clocks of ``Environment`` said at one moment, in seconds."""

    wall: float
    monotonic: float
    asleep: float

    @classmethod
    def read(cls, environment: Environment) -> Clocks:
        return cls(environment.now_ms() / 1000, environment.monotonic(), environment.asleep())


def woke_up(before: Clocks, after: Clocks, *, meant: float) -> bool:
    """Whether the device slept between two looks at its clocks.

    Where the system does not count the time that it sleeps, it shows by the wall clock, which goes on, or by a timer that
    fires late. A wall clock that is set forward looks the same, and costs one needless attempt.

    Args:
        before, after: the looks.
        meant: how many seconds there should have been between them.
    """
    passed = after.monotonic - before.monotonic
    return (
        after.asleep - before.asleep > _SLEPT_SECONDS
        or (after.wall - before.wall) - passed > _JUMP_SECONDS
        or passed - meant > _JUMP_SECONDS
    )


def quiet_left(last: float | None, now: float) -> float:
    """How many seconds a hint has to wait, by the monotonic clock now and at the last one that was passed on."""
    return 0.0 if last is None else max(0.0, last + QUIET_SECONDS - now)


class NetworkWatch:
    """Passes hints on, as long as somebody wants them.

    Args:
        loop: where everything here runs.
        environment: the world.
        hint: called in the loop, at most once in ``QUIET_SECONDS``.
    """

    def __init__(self, loop: SessionLoop, environment: Environment, hint: Callable[[], object]) -> None:
        self._loop = loop
        self._environment = environment
        self._hint = hint
        self._end: Callable[[], object] | None = None
        self._late: asyncio.Task[None] | None = None
        self._last: float | None = None
        self._wanted = False

    def keep(self, wanted: bool) -> None:
        """Watch from now on, or no longer; for one thread at a time."""
        if wanted is not self._wanted:
            self._wanted = wanted
            self._loop.post(self._start if wanted else self._stop)

    def leave_to_parent(self) -> None:
        """In a forked child: nothing is watched, and nobody wants it yet."""
        self._end = self._late = None
        self._wanted = False

    def _start(self) -> None:
        if self._end is None:
            watch = self._environment.watch_network or SystemNetwork(self._environment).watch
            self._end = watch(lambda: self._loop.post(self._heard))

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
            self._end = None
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _heard(self) -> None:
        if self._end is None or self._late is not None:
            return
        wait = quiet_left(self._last, self._environment.monotonic())
        if wait:
            self._late = asyncio.ensure_future(self._pass_on_later(wait))
        else:
            self._pass_on()

    async def _pass_on_later(self, seconds: float) -> None:
        await self._environment.sleep(seconds)
        self._late = None
        self._pass_on()

    def _pass_on(self) -> None:
        self._last = self._environment.monotonic()
        _log.debug("The network may be back: sessions that wait try again now.")
        self._hint()


class SystemNetwork:
    """The network as the operating system tells of it: by messages on Linux, elsewhere by being asked, and by the clocks.

    Args:
        environment: the world.
        listen: opens the system's messages; None is returned where there are none.
        load: finds what can be asked; raises ``ImportError`` when it is not installed.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        listen: Callable[[asyncio.AbstractEventLoop, Callable[[], object]], Callable[[], None] | None] = open_netlink,
        load: Callable[[], ModuleType] = lambda: importlib.import_module("psutil"),
    ) -> None:
        self._environment = environment
        self._listen = listen
        self._load = load

    def watch(self, hint: Callable[[], object]) -> Callable[[], object]:
        """For ``Environment.watch_network``; to be called in an event loop."""
        unlisten = self._listen(asyncio.get_running_loop(), hint)
        ask = None if unlisten is not None else self._asked()
        ticking = asyncio.ensure_future(self._tick(hint, ask))

        def end() -> None:
            ticking.cancel()
            if unlisten is not None:
                unlisten()

        return end

    def _asked(self) -> Callable[[], frozenset[Hashable]] | None:
        try:
            psutil = self._load()
        except ImportError:
            _log.debug("The network is not watched: there is no psutil. Sessions try again by their timers.")
            return None
        return lambda: networks(psutil)

    async def _tick(self, hint: Callable[[], object], ask: Callable[[], frozenset[Hashable]] | None) -> None:
        environment = self._environment
        clocks, known = Clocks.read(environment), await self._ask(ask)
        while True:
            await environment.sleep(TICK_SECONDS)
            before, clocks = clocks, Clocks.read(environment)
            before_known, known = known, await self._ask(ask)
            if woke_up(before, clocks, meant=TICK_SECONDS) or known - before_known:
                hint()

    async def _ask(self, ask: Callable[[], frozenset[Hashable]] | None) -> frozenset[Hashable]:
        found: frozenset[Hashable] = frozenset()
        if ask is not None:
            with contextlib.suppress(Exception):  # whatever psutil raises: the clocks tell still
                found = await self._environment.run_blocking(ask)
        return found


def networks(psutil: ModuleType) -> frozenset[Hashable]:
    """Links that are up, and their addresses, except for those that reach nobody else."""
    up = {name for name, link in psutil.net_if_stats().items() if link.isup and not _is_loopback(link)}
    addresses = {
        (name, address.family, address.address)
        for name, found in psutil.net_if_addrs().items()
        for address in found
        if name in up
    }
    return frozenset({*up, *addresses})


def _is_loopback(link: object) -> bool:
    return "loopback" in str(getattr(link, "flags", "")).split(",")
