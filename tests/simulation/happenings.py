"""What may befall a device or the remote: each method here is the kind of an ``Op``.

Each does its part at once and leaves what takes longer to a task, so that everything may befall a device in the midst of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from localstore.errors import LocalStoreError, StreamOverflow
from localstore.sync.progress import Direction, ProgressMode
from tests.simulation.checks import Written, Wrong, applied, last_number
from tests.simulation.disk import Disk
from tests.simulation.process import Device, Process
from tests.simulation.weather import Weather

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["BUFFER", "Happenings"]

BUFFER = 64  # values that a stream keeps for its reader


class Happenings:
    """What happens in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._checks = world.checks
        self._remote = world.remote
        self._network = world.network
        self._numbers: dict[str, int] = {}
        self._backups: dict[Device, tuple[str, Disk]] = {}
        self._remote_backup: object = None

    # -- what the application does

    def write(self, device: Device, chance: random.Random, *, work: str) -> None:
        """A transaction."""
        process = _with_realm(device)
        if process is None:
            return
        number = self._numbers[device.writer] = self._numbers.get(device.writer, 0) + 1

        def write() -> Written:
            with process.realm.write() as session:
                changes = tuple(self._world.works[work].write(session, chance, device.writer, number))
                shown = self._checks.standing.shown(session, changes)
            self._checks.standing.wrote(process, shown)
            return Written(device.name, device.writer, process.device_id, last_number(process), changes)

        written = process.run(write)
        self._world.trace.note(device.name, str(written))
        self._checks.written.append(written)
        self._world.promptness.wrote(process, written.device_id, written.number)
        process.run(lambda: self._checks.look(process, "write"))

    def write_together(self, device: Device, chance: random.Random) -> None:
        """All devices write at the same moment, and of the same rows those that know the same. Stamps are equal if clocks are,
        as half of the time a time server sees to."""
        work, seed, are_right = chance.choice(sorted(self._world.works)), chance.randrange(1 << 32), chance.random() < 0.5
        for one in self._world.devices:
            if are_right:
                one.clock.correct()
            for number in range(3):
                self.write(one, random.Random(seed + number), work=work)

    def pause(self, device: Device, chance: random.Random, *, away: float) -> None:
        """The user pauses sync for a while."""
        process = _with_realm(device)
        if process is None:
            return
        process.run(process.session.pause)
        self._world.moves.paused(process)

        async def resume() -> None:
            await asyncio.sleep(away)
            if process.is_open:
                self._world.moves.resumes(process)
                process.session.resume()

        self._world.away.append(process.begin(resume()))

    def reconnect(self, device: Device, chance: random.Random) -> None:
        if device.process is not None:
            device.process.run(device.process.app.sync.reconnect)

    def follow(self, device: Device, chance: random.Random, *, away: float) -> None:
        """Follow what the session tells, and read it only after a while: who is slow is told, and costs a buffer at most."""
        process = _with_realm(device)
        if process is None:
            return
        changes = process.run(process.session.connection_state_changes)
        statuses = process.run(process.session.status_changes)
        loop = self._world.loop

        async def read_changes() -> None:
            await asyncio.sleep(away)
            begun, ready, last = loop.steps, 0, None
            try:
                async for change in changes:
                    ready += loop.steps == begun
                    if ready > BUFFER or (last is not None and change.old_state is not last.new_state):
                        raise Wrong(f"{device.name}: a slow reader got {change} after {last}, number {ready} that was kept")
                    last = change
            except StreamOverflow:
                if ready < BUFFER:
                    raise Wrong(f"{device.name}: a slow reader was told that it is so after {ready} values") from None

        async def read_statuses() -> None:
            await asyncio.sleep(away)
            begun, ready = loop.steps, 0
            async for status in statuses:
                ready += loop.steps == begun
                if ready > 1:
                    raise Wrong(f"{device.name}: {ready} statuses were kept for a slow reader, {status} the last")

        self._begin(process, read_changes)
        self._begin(process, read_statuses)

    def upload(self, device: Device, chance: random.Random, *, timeout: float) -> None:
        """Wait for an upload: what it says is true, unless a remote has lost what it had acknowledged."""
        process = _with_realm(device)
        if process is None:
            return
        of, last = process.run(lambda: (process.device_id, last_number(process)))

        async def upload() -> None:
            is_done = await process.session.upload_all_local_changes_async(timeout)
            if is_done and process.device_id == of and not self._checks.parted:
                there = {sealed.number for sealed in self._remote.changesets() if sealed.device.hex() == of}
                missing = sorted({*range(1, last + 1)} - there)
                if missing:
                    raise Wrong(f"{device.name}: {missing} of its changesets were said to be uploaded, and are not there")

        self._begin(process, upload)

    def download(self, device: Device, chance: random.Random, *, timeout: float) -> None:
        """Wait for a download: what it says is true."""
        process = _with_realm(device)
        if process is None:
            return
        wanted = {sealed.device.hex(): sealed.number for sealed in self._remote.changesets()}
        parted = self._checks.parted

        async def download() -> None:
            if await process.session.download_all_server_changes_async(timeout) and parted == self._checks.parted:
                had = applied(process)
                missing = {of: number for of, number in wanted.items() if had.get(of, 0) < number}
                if missing and not self._checks.waits(process):
                    raise Wrong(f"{device.name}: {missing} were said to be in the file, which has {had}")

        self._begin(process, download)

    def progress(self, device: Device, chance: random.Random, *, direction: Direction) -> None:
        """Watch the progress of what is outstanding now: it never goes back, and ends when all is done."""
        process = _with_realm(device)
        if process is None:
            return
        stream = process.run(lambda: process.session.progress(direction, ProgressMode.CURRENT_CHANGES))

        async def watch() -> None:
            last = 0.0
            async for progress in stream:
                if progress.estimate < last or not 0 <= progress.estimate <= 1:
                    raise Wrong(f"{device.name}: the progress of an {direction.value} went from {last} to {progress.estimate}")
                last = progress.estimate

        self._begin(process, watch)

    def close(self, device: Device, chance: random.Random, *, away: float) -> None:
        """The application ends, and begins again."""
        if device.process is not None:
            self._world.trace.note(device.name, "closes")
            self._world.leave(device, device.close(), away)

    def reopen(self, device: Device, chance: random.Random, *, away: float) -> None:
        """The application closes its realm, often right after a write, and opens it again, perhaps while that is uploaded."""
        process = _with_realm(device)
        if process is None:
            return
        if chance.random() < 0.5:
            self.write(device, chance, work=chance.choice(sorted(self._world.works)))
        process.run(process.close_realm)
        self._world.promptness.closed_realm(process)
        self._world.trace.note(device.name, f"closes its realm, and the session is {process.session.state.value}")

        async def open_again() -> None:
            await asyncio.sleep(away)
            await process.log_in()
            if device.process is process and not process.is_dead:
                is_new = process.open()
                self._world.trace.note(device.name, f"opens its realm again, with {'a new' if is_new else 'the same'} session")
                if is_new:
                    self._world.opened(process)

        self._world.away.append(process.begin(open_again()))

    def upgrade(self, device: Device, chance: random.Random, *, away: float) -> None:
        """The application gets its later classes, and begins again with them."""
        if device.process is not None and not device.is_upgraded:
            device.is_upgraded = True
            self._world.trace.note(device.name, "is upgraded")
            self._world.leave(device, device.close(), away)

    def log_out(self, device: Device, chance: random.Random, *, away: float) -> None:
        """The user logs out, and in again after a while; the realm stays open."""
        if device.process is not None:
            device.process.run(device.process.log_out)
            self._log_in_later(device.process, away)

    def _log_in_later(self, process: Process, away: float) -> None:
        async def log_in() -> None:
            await asyncio.sleep(away)
            await process.log_in()

        self._world.away.append(process.begin(log_in()))

    # -- what happens to the device

    def change_weather(self, device: Device, chance: random.Random, *, weather: Weather) -> None:
        self._network.change_weather(device.name, weather)

    def step_clock(self, device: Device, chance: random.Random, *, seconds: float) -> None:
        """A clock is never behind by as much as a device may be away: what is stamped so long ago need not be remembered."""
        behind = (self._world.clock.now_ms() - device.clock.now_ms()) / 1000
        most = device.settings["client_maximum_offline_time"] / 2
        device.clock.step(max(seconds, behind - most))

    def crash(self, device: Device, chance: random.Random, *, steps: int, commits: int, away: float) -> None:
        """After so many steps of the process; with ``commits`` the power fails."""
        process = device.process
        if process is None:
            return

        def strike() -> None:
            if device.process is process:
                self._world.leave(device, device.kill(commits), away)

        process.strike_after(steps, strike)

    def back_up(self, device: Device, chance: random.Random) -> None:
        """Somebody copies the device's files."""
        if _with_realm(device) is not None:
            self._backups[device] = _id_of(device), Disk.of(device.folder)

    def restore(self, device: Device, chance: random.Random, *, away: float) -> None:
        """Somebody puts the files of a backup in place of the device's."""
        if _with_realm(device) is not None and device in self._backups:
            of, disk = self._backups[device]
            self._checks.part_device(device, of)
            self._world.leave(device, device.kill(instead=disk), away)

    def copy(self, device: Device, chance: random.Random, *, to: int, away: float) -> None:
        """Somebody copies the device's files to another device, which is the same one then."""
        target = self._world.devices[to % len(self._world.devices)]
        if _with_realm(device) is not None and _with_realm(target) is not None and target is not device:
            self._checks.part_device(target, _id_of(device))
            self._world.leave(target, target.kill(instead=Disk.of(device.folder)), away)

    # -- what happens to the remote

    def expire_tokens(self, device: Device, chance: random.Random) -> None:
        """All tokens are of no use from one moment to the next."""
        self._remote.expire_access_tokens()

    def shut_out(self, device: Device, chance: random.Random, *, away: float) -> None:
        """All log-ins are ended, and those who log in again are welcome."""
        from tests.simulation.world import CREDENTIALS, USER

        self._remote.shut_out(USER)
        self._remote.add_user(USER, CREDENTIALS)
        for one in self._world.devices:
            if one.process is not None:
                self._log_in_later(one.process, away)

    def restart_remote(self, device: Device, chance: random.Random) -> None:
        self._network.restart()

    def wipe_remote(self, device: Device, chance: random.Random) -> None:
        self._checks.part()
        self._remote.wipe()
        self._network.restart()

    def back_up_remote(self, device: Device, chance: random.Random) -> None:
        self._remote_backup = self._remote.backup()

    def restore_remote(self, device: Device, chance: random.Random) -> None:
        if self._remote_backup is not None:
            self._checks.part()
            self._remote.restore(self._remote_backup)
            self._network.restart()

    def trim_history(self, device: Device, chance: random.Random) -> None:
        """Devices that have not read everything have to begin anew. Where there are snapshots, devices do so themselves."""
        if self._world.plan.setup.capabilities["snapshots"]:
            return
        self._checks.trimmed()
        self._remote.trim_history()

    def ask_for_reset(self, device: Device, chance: random.Random) -> None:
        self._checks.trimmed()
        self._remote.ask_for_reset("an operator's wish")
        self._network.ring()

    def _begin(self, process: Process, work: Callable[[], Awaitable[None]]) -> None:
        """A task of the application's, which may be broken off by whatever befalls it; what it finds wrong is told."""

        async def watched() -> None:
            try:
                with suppress(LocalStoreError):
                    await work()
            except Wrong as error:
                if not process.is_dead:
                    self._checks.fail(error)

        process.begin(watched())


def _id_of(device: Device) -> str:
    process = device.process
    assert process is not None
    return process.run(lambda: process.device_id)


def _with_realm(device: Device) -> Process | None:
    """The application, when it runs and has its realm open."""
    process = device.process
    return process if process is not None and process.is_open else None
