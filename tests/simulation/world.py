"""One run: devices and a remote, what befalls them by a plan, and how they are after the faults have stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tempfile
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from localstore import Credentials
from localstore.clock import stamp_ms
from localstore.environment import Environment
from localstore.errors import SyncError, Unauthorized
from localstore.sync.state import SessionState
from tests.simulation.checks import Checks, Wrong, waiting
from tests.simulation.clocks import WallClock
from tests.simulation.disk import Disk
from tests.simulation.happenings import Happenings
from tests.simulation.keeping import kept, too_much
from tests.simulation.line import Adapter, Network
from tests.simulation.loop import VirtualLoop
from tests.simulation.moves import Moves
from tests.simulation.plan import Plan
from tests.simulation.process import Device, Process
from tests.simulation.promptness import HARMLESS, OF_ONE_DEVICE, Promptness
from tests.simulation.remote import Remote
from tests.simulation.standing import Standing
from tests.simulation.trace import Logged, Trace
from tests.simulation.weather import CALM
from tests.simulation.workloads.churn import Churn
from tests.simulation.workloads.lists import Lists
from tests.simulation.workloads.names import Names
from tests.simulation.workloads.notes import Notes
from tests.simulation.workloads.sheets import Sheets
from tests.simulation.workloads.transfers import Transfers
from tests.simulation.workloads.trees import Trees
from tests.simulation.workloads.work import Work

__all__ = ["CREDENTIALS", "USER", "Outcome", "World", "run"]

USER, CREDENTIALS = "anna", Credentials.email_password("anna@example.org", "secret")

MAX_STEPS = 400_000
_ROUNDS = 200  # of waiting for everybody to come to rest
_ROUND_SECONDS = 61.0
_FAR_AHEAD_SECONDS = 3600.0  # what is stamped further ahead need not be waited for; clocks that are so wrong are corrected
_BEHIND_SECONDS = 300.0  # a clock that is further behind is corrected, as it may keep its device from any snapshot for as long
_FAST_FOLDER = Path("/dev/shm")

WORKS: dict[str, type[Work]] = {
    "transfers": Transfers,
    "lists": Lists,
    "churn": Churn,
    "names": Names,
    "trees": Trees,
    "sheets": Sheets,
    "notes": Notes,
}


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        steps: how many the loop made.
        seconds: how much time went by in it.
        changesets: how many the remote took.
        digest: of all that was noted.
        failure: what was wrong, None when nothing was.
        last: the last that was noted.
    """

    steps: int
    seconds: float
    changesets: int
    digest: str
    failure: str | None
    last: list[str]


def run(plan: Plan, *, tell: Callable[[str], object] | None = None, max_steps: int = MAX_STEPS) -> Outcome:
    """Carry a plan out.

    Args:
        plan: what is to happen.
        tell: is told everything that is noted, at once.
        max_steps: a run that takes more has failed.
    """
    with _folder() as folder, _no_garbage_collection():
        world = World(plan, folder, tell=tell, max_steps=max_steps)
        return world.run()


class World:
    """Devices, a network and a remote in one loop.

    Attributes:
        clock: the true one, and the remote's.
        away: tasks of applications that do not run for a while, or do less than they may.
    """

    def __init__(self, plan: Plan, folder: Path, *, tell: Callable[[str], object] | None, max_steps: int) -> None:
        self.plan = plan
        self.loop = VirtualLoop(max_steps)
        self.trace = Trace(self.loop.time, str(folder), tell)
        setup = plan.setup
        self.works = {name: WORKS[name]() for name in setup.works}
        source = random.Random(f"remote {plan.seed}")
        self.clock = WallClock(self.loop.time)
        self.remote = Remote(
            Environment(now_ms=self.clock.now_ms, monotonic=self.loop.time, random_bytes=source.randbytes),
            horizon_days=setup.horizon_days,
            access_seconds=setup.access_seconds,
        )
        self.remote.brings_news = setup.brings_news
        self.remote.add_user(USER, CREDENTIALS)
        works = list(self.works.values())
        standing = Standing(self.remote, [table for work in works for table in work.tables])
        self.checks = Checks(works, standing, self.loop.give_up)
        self.checks.resets = setup.horizon_days is not None or setup.capabilities["snapshots"]
        self.network = Network(self.remote, self.loop, self.trace, f"network {plan.seed}", setup.capabilities)
        self.moves = Moves(lambda said: self.loop.give_up(Wrong(said)))
        self.promptness = Promptness(self.network, setup, lambda said: self.loop.give_up(Wrong(said)))
        schemas = (
            [model for work in self.works.values() for model in work.models],
            [model for work in self.works.values() for model in work.later_models or work.models],
        )
        self.devices = [
            Device(
                f"d{index}",
                folder / f"d{index}",
                self.loop,
                self.trace,
                WallClock(self.loop.time, offset_s=offset, rate=rate),
                f"device {plan.seed} {index}",
                settings=setup.settings,
                schemas=schemas,
                make_adapter=lambda process: Adapter(self.network, process.name, lambda: not process.is_dead),
                credentials=None if setup.access_seconds is None else CREDENTIALS,
                observer=self,
            )
            for index, (offset, rate) in enumerate(zip(setup.offsets, setup.rates, strict=True))
        ]
        self.away: list[asyncio.Task[None]] = []
        self._processes: list[Process] = []

    def run(self) -> Outcome:
        failure: str | None = None
        log, logged = logging.getLogger("localstore"), Logged(self.trace, lambda said: self.loop.give_up(Wrong(said)))
        log.addHandler(logged)
        try:
            self.loop.run_until_complete(self._live())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  whatever it is, it is what was looked for
            failure = f"{type(error).__name__}: {error}"
            if not isinstance(error, Wrong):
                failure += "\n" + "".join(traceback.format_exception(error))
        finally:
            log.removeHandler(logged)
            self._tidy()
        if failure is None and self.loop.lost:
            failure = f"was not heard of: {'; '.join(self.loop.lost)}"
        trace = self.trace
        changesets = len(self.network.accepted)
        return Outcome(self.loop.steps, self.loop.time(), changesets, trace.digest, failure, list(trace.last))

    def _at_rest(self) -> None:
        """Everybody is: see whether all is well."""
        for device in self.devices:
            assert device.process is not None
            held = kept(device.process.session)
            if too_much(held):
                raise Wrong(f"{device.name}: its session is at rest, and keeps {dict(held)}")
        self.checks.all_is_well(self.devices, self.remote.changesets())

    async def _live(self) -> None:
        for device in self.devices:
            await device.start()
        happenings = Happenings(self)
        for op in self.plan.ops:
            await asyncio.sleep(max(0.0, op.at - self.loop.time()))
            self.trace.note("plan", str(op))
            getattr(happenings, op.kind)(self.devices[op.device], random.Random(op.seed), **op.with_)
            for device in self.devices:
                if device.process is not None:
                    device.process.notice()
            if op.kind not in HARMLESS:
                self.promptness.disturbed(self.devices[op.device].name if op.kind in OF_ONE_DEVICE else None)
        self.trace.note("plan", "all faults stop")
        await self._heal()
        self._at_rest()
        if self._upgrade_all():
            await self._heal()
            self._at_rest()
        self.trace.note("plan", "all is well")
        for device in self.devices:
            await device.close()

    def leave(self, device: Device, leaving: Coroutine[Any, Any, None], away: float) -> None:
        """Let a device's application end, and begin again after a while."""

        async def leave() -> None:
            await leaving
            await asyncio.sleep(away)
            await device.start()

        self.away.append(self.loop.create_task(leave(), context=self.network.context))

    # -- the end

    async def _heal(self) -> None:
        """Wait until everybody has come to rest, which must not take long."""
        await self._end_faults()
        have_noticed = False
        for _ in range(_ROUNDS):
            await asyncio.sleep(_ROUND_SECONDS)
            for device in self.devices:
                await self._log_in(device)
            if not have_noticed and not any(map(why_not_in_step, self.devices)):
                have_noticed = True
                self._let_twins_notice()
            if not any(map(why_not_in_step, self.devices)):
                before = len(self.network.accepted)
                have_all = [await self._download(device) for device in self.devices]
                is_over = before == len(self.network.accepted) and not any(map(why_not_in_step, self.devices))
                if all(have_all) and is_over and not any(map(why_not_at_rest, self.devices)):
                    return
                if all(have_all) and is_over:
                    self._let_time_come()
        restless = [f"{device.name}: {why}" for device in self.devices if (why := why_not_at_rest(device))]
        raise Wrong(f"does not come to rest: {'; '.join(restless)}")

    async def _end_faults(self) -> None:
        """Let the sun shine, clocks be about right, and everybody be there."""
        self.promptness.disturbed()
        for device in self.devices:
            self.network.change_weather(device.name, CALM)
            ahead = (device.clock.now_ms() - self.clock.now_ms()) / 1000
            if not -_BEHIND_SECONDS <= ahead <= _FAR_AHEAD_SECONDS:
                device.clock.correct()
            if device.process is not None:
                device.process.spare()
        while self.away:
            task = self.away.pop()
            with suppress(asyncio.CancelledError):
                await task

    def _let_twins_notice(self) -> None:
        """Let copies connect anew: until they do so, or have something to send, they may not be given what their twins sent."""
        for process in [device.process for device in self.devices]:
            if process is not None and process.run(partial(getattr, process, "device_id")) in self.checks.twice:
                process.run(process.session.pause)
                self.moves.paused(process)
                self.moves.resumes(process)
                process.run(process.session.resume)

    def _let_time_come(self) -> None:
        """Let all wall clocks go on to the time of the latest changeset, as if everybody had slept until then. Who is not in
        step would have been away for too long by that.
        """
        latest = max((stamp_ms(sealed.stamp) for sealed in self.remote.changesets()), default=0)
        ahead = (latest - self.clock.now_ms()) / 1000
        if ahead > _FAR_AHEAD_SECONDS:
            self.trace.note("plan", f"everybody sleeps for {ahead:.0f} s")
            for clock in (self.clock, *(device.clock for device in self.devices)):
                clock.step(ahead)

    def _upgrade_all(self) -> bool:
        """Upgrade all devices when some of them are, and say whether that made a difference."""
        old = [device for device in self.devices if not device.is_upgraded]
        if "notes" not in self.works or len(old) == len(self.devices):
            return False
        for device in old:
            device.is_upgraded = True
            self.leave(device, device.close(), 0.0)
        return bool(old)

    async def _log_in(self, device: Device) -> None:
        """See to what only a user can: log in, and try again with a token that the remote took no more just when it was new."""
        process = device.process
        if process is not None:
            await process.begin(process.log_in())
            if process.session.state is SessionState.INACTIVE and isinstance(process.session.last_error, Unauthorized):
                self.moves.resumes(process)
                process.run(process.session.resume)

    async def _download(self, device: Device) -> bool:
        """Let a device have everything; False when its user turns out to be logged out."""
        process = device.process
        assert process is not None
        try:
            has_all = await process.begin(process.session.download_all_server_changes_async(timeout=3600))
        except Unauthorized:
            return False
        if not has_all:
            raise Wrong(f"{device.name}: a download does not come to an end")
        return True

    def _tidy(self) -> None:
        """Let go of all that a run left open that came to no good end."""
        self.loop.begin_anew()
        with suppress(Exception):
            self.loop.run_until_complete(self._end_all())
        self.loop.close()

    async def _end_all(self) -> None:
        for task in self.away:
            task.cancel()
        for process in self._processes:
            process.is_dead = True
            process.run(process.close)
            await process.end()

    # -- what processes tell

    def opened(self, process: Process) -> None:
        if process not in self._processes:
            self._processes.append(process)
        self.moves.opened(process)
        self.promptness.opened(process)
        process.run(lambda: self.checks.opened(process))

    def passed(self, process: Process, disk: Disk) -> None:
        self.checks.look_at(process, disk)

    def worked(self, process: Process, name: str) -> None:
        self.promptness.worked(process, name)
        self.checks.look(process, name)

    def moved(self, process: Process) -> None:
        self.moves.moved(process)

    def heard(self, process: Process, error: SyncError) -> None:
        self.trace.note(process.name, f"hears of {type(error).__name__}: {error.message}")
        self.checks.heard(process, error)

    def died(self, process: Process) -> None:
        self.moves.died(process)
        self.promptness.died(process)
        self.checks.died(process)


def why_not_in_step(device: Device) -> str:
    """What a device is still about, whatever waits for its time there."""
    process = device.process
    if process is None:
        return "is not there"
    status = process.session.status
    return "" if status.state is SessionState.ACTIVE and status.is_synced else str(status)


def why_not_at_rest(device: Device) -> str:
    """What a device is still about; nothing when it is at rest."""
    if why := why_not_in_step(device):
        return why
    assert device.process is not None
    count = waiting(device.process)
    return f"{count} changesets wait" if count else ""


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    with tempfile.TemporaryDirectory(dir=_FAST_FOLDER if _FAST_FOLDER.is_dir() else None) as name:
        yield Path(name)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """So that it does not depend on the process's past when something is destroyed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
