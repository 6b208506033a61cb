"""A process of its own, for what is measured of a whole process: ``python -m benchmarks.device WHAT DIRECTORY NUMBER``.

It prints what it found as one line of JSON, or, for those that watch, one line for everything they see. Times are those of the
system's monotonic clock, which is the same for all processes.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from sqlmodel import SQLModel, col, select
from watchfiles import awatch

from benchmarks.kit import INSERT, Reading, new_rows
from localstore import App, Credentials, Realm, Settings, SyncConfiguration
from localstore.registry import AdapterFactory

WAIT_SECONDS = 600
SETTLE_SECONDS = 3.0  # until what an opening sets off has come to rest
_WATCHING: dict[str, Any] = {"step": 5, "debounce": 100, "watch_filter": None, "yield_on_timeout": True}  # as the adapter does


@contextmanager
def device(
    directory: Path,
    name: str,
    table: type[SQLModel] = Reading,
    *,
    remote: str | AdapterFactory | None = None,
    settings: Settings | None = None,
) -> Iterator[tuple[App, SyncConfiguration]]:
    """An app over a remote, a folder in the directory unless it is said, and the configuration of a realm with one table."""
    remote = remote or folder_url(directory / "remote")
    with closing(App.create("benchmarks", remote=remote, settings=settings or Settings())) as app:
        user = app.login(Credentials.anonymous())
        yield app, SyncConfiguration(user, schema={table}, path=directory / f"{name}.db")


def folder_url(path: Path) -> str:
    return path.as_uri().replace("file:", "folder:", 1)


def say(found: object) -> None:
    print(json.dumps(found), flush=True)


# -- what is seen, and when


def see_rows(directory: Path, count: int, remote: str | None = None) -> None:
    """Print the time at which each new row can be read here. Looks twice in a millisecond whether the file has changed."""
    with device(directory, "reader", remote=remote) as (_, configuration), Realm.open(configuration) as realm:
        assert realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        say("ready")
        for number in range(count):
            wanted, version = select(Reading.id).where(col(Reading.count) == number), realm.version
            while realm.exec(wanted).first() is None:
                while realm.version == version:
                    time.sleep(0.0005)
                version = realm.version
            say(time.monotonic())


def see_files(directory: Path, count: int) -> None:
    """Print the time at which a bare watch hears of each file that is renamed into the directory."""

    async def watch() -> None:
        say("ready")
        names = {f"{number}.changes" for number in range(count)}
        async for batch in awatch(directory, rust_timeout=5000, **_WATCHING):
            for name in names & {Path(path).name for _, path in batch}:
                names.remove(name)
                say(time.monotonic())
            if not names:
                return

    asyncio.run(watch())


# -- what an idle process costs


def idle(directory: Path, realms: int, measured_ms: int) -> None:
    """With so many synced realms open; 0 is a bare watch of the folder instead."""
    with ExitStack() as stack:
        _, configuration = stack.enter_context(device(directory, "idle"))
        opened = []
        for number in range(realms):
            path = directory / f"idle {number}.db"
            one = SyncConfiguration(configuration.user, schema={Reading}, path=path, partition=f"part {number}")
            opened.append(stack.enter_context(Realm.open(one)))
        for realm in opened:
            assert realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        say(at_rest(measured_ms / 1000) if realms else asyncio.run(bare_watch(directory, measured_ms / 1000)))


async def bare_watch(directory: Path, seconds: float) -> dict[str, float]:
    async def watch() -> None:
        async for _ in awatch(directory, rust_timeout=5000, **_WATCHING):
            pass

    watching = asyncio.ensure_future(watch())
    found = await asyncio.to_thread(at_rest, seconds)
    watching.cancel()
    return found


def at_rest(seconds: float) -> dict[str, float]:
    time.sleep(min(SETTLE_SECONDS, seconds))
    before, began = _spent(), time.monotonic()
    time.sleep(seconds)
    spent, passed = {name: value - before[name] for name, value in _spent().items()}, time.monotonic() - began
    return {"cpu": spent["cpu"] / passed, "disk": spent["disk"], "written": spent["written"], "memory": memory("VmRSS")}


def _spent() -> dict[str, float]:
    """What this process has used so far: processor seconds, bytes sent to the disk, and bytes written to anything."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    pairs = (line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    io = {name: int(value) for name, value in pairs}
    return {"cpu": usage.ru_utime + usage.ru_stime, "disk": io["write_bytes"], "written": io["wchar"]}


def memory(what: str) -> float:
    """Bytes of memory of this process, now (``VmRSS``) or at most so far (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith(f"{what}:"))


# -- what a transfer costs


def write_unsent(directory: Path, rows: int, in_one: int) -> None:
    """So many rows in a realm that sends nothing, so many in a transaction."""
    with device(directory, "sender") as (_, configuration), Realm.open(configuration) as realm:
        realm.sync_session.pause()
        for start in range(0, rows, in_one):
            with realm.write() as tx:
                tx.connection().exec_driver_sql(INSERT, new_rows(min(in_one, rows - start)))
        realm.sync_session.pause()
    say(rows)


def transfer(directory: Path, name: str) -> None:
    """Send and receive all there is; the most memory it took."""
    with device(directory, name) as (_, configuration), Realm.open(configuration) as realm:
        assert realm.sync_session.upload_all_local_changes(timeout=WAIT_SECONDS)
        assert realm.sync_session.download_all_server_changes(timeout=WAIT_SECONDS)
        say(memory("VmHWM"))


def first_sync(directory: Path, folder: Path, rows: int) -> None:
    """Open a new file with all flights that a folder has; the most memory it took."""
    from benchmarks.first_sync import open_with_all

    open_with_all(directory, folder_url(folder), rows)
    say(memory("VmHWM"))


def idle_over(directory: Path, folder: Path, way: str, measured_ms: int) -> None:
    """The part of the processor's time that it takes to wait for news in a folder."""
    from benchmarks.waiting import wait_in_a_way

    say(wait_in_a_way(directory, folder, way, measured_ms / 1000))


def main(what: str, directory: Path, *arguments: str) -> None:
    numbers = [int(argument) for argument in arguments if argument.isdigit()]
    match what:
        case "see_rows":
            see_rows(directory, numbers[0], *arguments[1:])
        case "see_files":
            see_files(directory, *numbers)
        case "idle":
            idle(directory, *numbers)
        case "write_unsent":
            write_unsent(directory, *numbers)
        case "transfer":
            transfer(directory, *arguments)
        case "first_sync":
            first_sync(directory, Path(arguments[0]), *numbers)
        case "idle_over":
            idle_over(directory, Path(arguments[0]), arguments[1], *numbers)
        case "push_one_by_one" | "listen" | "pull_all" | "hold":
            from benchmarks import hub_devices

            asyncio.run(getattr(hub_devices, what)(*arguments[:1], *numbers))
        case _:
            raise SystemExit(f"What is {what}?")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
