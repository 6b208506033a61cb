"""What the tests of resets share: the simplest of remotes, which loses or keeps history, and stores filled from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from localstore.store.resetting import ResetOutcome, ResetPlan, reset
from localstore.testing.clock import ManualClock
from localstore.wire import SealedChangeset
from tests.unit.store_kit import NOTE, Device, Statement

RECOVER = ResetPlan(recover=True, step="done")
DISCARD = ResetPlan(recover=False, step="done")
SEED = ResetPlan(recover=True, seed=True, step="done")


@dataclass
class Remote:
    """A history and nothing else."""

    folder: Path
    tables: Sequence[sa.Table] = (NOTE,)
    clock: ManualClock = field(default_factory=ManualClock)
    options: dict[str, Any] = field(default_factory=dict)
    history: list[SealedChangeset] = field(default_factory=list)

    def device(self, name: str, tables: Sequence[sa.Table] | None = None) -> Device:
        return Device(self.folder, name, tables or self.tables, clock=self.clock, **self.options)

    def push(self, *devices: Device) -> None:
        """The devices send what they have, and hear that it came."""
        for device in devices:
            device.store.seal()
            known = {(sealed.device, sealed.number) for sealed in self.history}
            unsent = device.store.batch(max_bytes=1 << 40, max_count=1 << 20)
            self.history += [sealed for sealed in unsent if (sealed.device, sealed.number) not in known]
            device.store.acknowledge(device.store.state().last_number)

    def pull(self, *devices: Device) -> None:
        """The devices take all of the history."""
        for device in devices:
            cursor = device.store.state().cursor
            assert device.store.apply(self.history, after=cursor, cursor=b"%d" % len(self.history)) is not None

    def exchange(self, *devices: Device) -> None:
        """Everybody sends, and then everybody takes."""
        self.push(*devices)
        self.pull(*devices)

    def fresh(self, name: str = "fresh", tables: Sequence[sa.Table] | None = None) -> Device:
        """A store that was filled from the history just now."""
        device = self.device(name, tables)
        self.pull(device)
        return device

    def reset(self, device: Device, plan: ResetPlan, name: str = "fresh") -> ResetOutcome:
        """Reset a device to what the history holds now."""
        fresh = self.fresh(f"{name}-{device.name}")
        outcome = reset(device.store, fresh.store, plan, self.clock.now_ms())
        fresh.close()
        return outcome


def began(
    folder: Path, *statements: Statement, tables: Sequence[sa.Table] = (NOTE,), **options: Any
) -> tuple[Remote, Device, Device]:
    """A remote, and two devices that are up to date with it after one wrote the statements."""
    remote = Remote(folder, tables, options=options)
    one, other = remote.device("x"), remote.device("y")
    if statements:
        one.write(*statements)
    remote.exchange(one, other)
    return remote, one, other


def settled(remote: Remote, *devices: Device) -> None:
    """Everybody has everything, however much is on its way."""
    remote.exchange(*devices)
    remote.exchange(*devices)
