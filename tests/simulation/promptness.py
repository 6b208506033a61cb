"""In calm weather sync is quick: time is virtual here, so that it can be said exactly how quick.

What was committed is at the remote, and what others pushed is in the file, as soon as a device that nothing disturbs has had
the time to ask for it: one that asks for nothing any more and does not have it has lost a wake-up. And the first wait after a
failure is the first interval again once a round of sync has succeeded. It knows connections, requests and numbers, and
nothing of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from localstore.sync.state import ConnectionState, ConnectionStateChange, SessionState
from localstore.sync.status import Reason
from localstore.wire import SealedChangeset
from tests.simulation.line import Network
from tests.simulation.plan import Setup
from tests.simulation.process import Process
from tests.simulation.weather import CALM

__all__ = ["HARMLESS", "OF_ONE_DEVICE", "Promptness"]

HARMLESS = {"write", "write_together", "upload", "download", "progress", "follow"}
"""Kinds of happenings that are no reason to be slow."""
OF_ONE_DEVICE = {"change_weather", "crash", "close", "reopen", "pause", "reconnect", "back_up", "step_clock"}
"""Kinds that are one for the device alone to which they happen."""

_AT_ONCE = 2.0  # seconds: twenty round trips in calm weather
_MOMENT = 0.5  # seconds: five of them, of which a session that ends has use for one at a time
_LOOKS = 200  # at a device that is about something, before it is said to get nowhere
_SOON = 0.01


@dataclass
class _Line:
    """What is known of a process's connection.

    Attributes:
        since: when it was made, if nothing has disturbed the device since then.
        changes: counts what changed of it, and disturbances.
        steps: counts what changed of it.
        succeeded: whether a round of sync went well since the last failure.
        had: by device, the last number that was in the file when somebody looked.
    """

    since: float | None = None
    changes: int = 0
    steps: int = 0
    succeeded: bool = False
    had: dict[str, int] = field(default_factory=dict)


class Promptness:
    """Watches how quick devices are.

    Args:
        network: theirs.
        setup: of the run.
        fail: is told what is wrong.
    """

    def __init__(self, network: Network, setup: Setup, fail: Callable[[str], object]) -> None:
        self._network = network
        self._setup = setup
        self._fail = fail
        self._lines: dict[Process, _Line] = {}
        self._arrived: dict[str, int] = {}
        network.on_taken = self._taken

    # -- what happens

    def opened(self, process: Process) -> None:
        if (before := self._lines.get(process)) is not None:  # of a realm that was closed: nothing is awaited of it any more
            before.changes, before.steps = before.changes + 1, before.steps + 1
        self._lines[process] = _Line()
        process.session.on_connection_state_change(lambda change: self._connected(process, change))

    def died(self, process: Process) -> None:
        self._lines.pop(process, None)

    def disturbed(self, name: str | None = None) -> None:
        """Something happened to a device, or to all, that may well slow it down until it has connected anew."""
        for process, line in self._lines.items():
            if name in (None, process.name):
                self._changed(line, None)

    def worked(self, process: Process, name: str) -> None:
        """A call of the store was made; purging is the end of a round that went well."""
        if name == "purge" and process in self._lines:
            self._lines[process].succeeded = True

    def wrote(self, process: Process, device_id: str, number: int) -> None:
        """A device committed something, which is to be at the remote soon."""
        line = self._lines.get(process)
        if line is not None and line.since is not None:
            self._later(process, line, _AT_ONCE, lambda: self._arrived.get(device_id, 0) >= number, f"push its {number}")

    def closed_realm(self, process: Process) -> None:
        """A realm was closed: its session is to end as soon as what was unsent is sent, and nobody needs to be there for it."""
        line, session = self._lines.get(process), process.session
        if line is None or line.since is None:
            return
        steps = line.steps

        def look(asked: int) -> None:
            is_dying = not process.is_dead and process.session is session and session.state is SessionState.DYING
            if not is_dying or line.steps != steps or self._network.weather(process.name) != CALM:
                return
            by_now = self._network.asked.get(process.name, 0)
            if by_now == asked:
                self._fail(f"{process.name} is not prompt: its realm was closed, and its session neither uploads nor ends")
            self._network.later(_MOMENT, lambda: look(by_now))

        first = self._network.asked.get(process.name, 0)
        self._network.later(_MOMENT, lambda: look(first))

    def _taken(self, batch: Sequence[SealedChangeset], acknowledged: int, by: str) -> None:
        """The remote took something, which is to be at all others soon."""
        device_id, last = batch[0].device.hex(), min(batch[-1].number, acknowledged)
        if last <= self._arrived.get(device_id, 0):
            return
        self._arrived[device_id] = last
        for process, line in self._lines.items():
            if process.name == by or line.since is None or not process.is_open:
                continue
            if process.run(partial(getattr, process, "device_id")) == device_id:
                continue  # it is a copy of who pushed, and nobody is told of what is their own
            seconds = 0.0 if self._network.is_watched(process.name) else self._setup.capabilities["poll_seconds"]
            has = partial(self._has, process, line, device_id, last)
            self._later(process, line, seconds + _AT_ONCE, has, f"get {last} of {device_id[:6]}")

    def _connected(self, process: Process, change: ConnectionStateChange) -> None:
        line = self._lines.get(process)
        if line is None:
            return
        line.steps += 1
        is_calm = change.new_state is ConnectionState.CONNECTED and self._network.weather(process.name) == CALM
        self._changed(line, self._network.loop.time() if is_calm else None)
        if change.new_state is ConnectionState.DISCONNECTED and line.succeeded:
            line.succeeded = False
            self._see_to_backoff(process, line)

    def _changed(self, line: _Line, since: float | None) -> None:
        line.since = since
        line.changes += 1
        line.had.clear()

    # -- what has to be so

    def _later(self, process: Process, line: _Line, seconds: float, is_done: Callable[[], bool], what: str) -> None:
        """Look whether something is done; as long as the device does something, it may still be."""
        changes, left = line.changes, _LOOKS

        def look(asked: int) -> None:
            nonlocal left
            if line.changes != changes or process.is_dead or process.realm.is_closed or is_done():
                return
            left -= 1
            by_now = self._network.asked.get(process.name, 0)
            if by_now == asked or not left:
                self._fail(f"{process.name} is not prompt: there is nothing in its way, and it does not {what}")
            self._network.later(_AT_ONCE, lambda: look(by_now))

        first = self._network.asked.get(process.name, 0)
        self._network.later(seconds, lambda: look(first))

    def _has(self, process: Process, line: _Line, device_id: str, number: int) -> bool:
        """Whether a changeset is in the file, applied or waiting for what it depends on."""
        if line.had.get(device_id, 0) < number:
            with process.realm.read() as session:
                line.had = dict(session.execute(sa.text(_NUMBERS)).all())
        return line.had.get(device_id, 0) >= number

    def _see_to_backoff(self, process: Process, line: _Line) -> None:
        """The first wait after a success is the first interval; a wait for a token may come before it, and is none."""
        if process.is_dead or process.realm.is_closed or process.session.status.next_attempt is None:
            return
        steps, initial = line.steps, self._setup.settings["backoff_initial"]

        def look() -> None:
            if process.is_dead or process.realm.is_closed or line.steps != steps:
                return
            status = process.session.status
            if status.state is SessionState.ACTIVE and status.why in (Reason.OFFLINE, Reason.BACKING_OFF):
                self._fail(f"{process.name} is not prompt: it waits longer than {initial} s after the first failure")

        self._network.later(initial + _SOON, look)


_NUMBERS = """
    SELECT lower(hex(device)), max(number) FROM (
        SELECT device, number FROM localstore_device
        UNION ALL SELECT device, number FROM localstore_waiting
        UNION ALL SELECT device, max(last_number, coalesce((SELECT max(number) FROM localstore_outbox), 0))
            FROM localstore_state
    ) GROUP BY device"""
