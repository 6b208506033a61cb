"""A process that counts in a file which others count in: ``counting_process.py KIND DATABASE NAME COUNT WORKERS``.

KIND is ``local`` or ``synced``. It says ``ready``, waits for a line, and then has WORKERS threads, and as many tasks, add
one to the same row COUNT times each, every time with a trace of its own beside it. Whatever goes wrong ends it with an error.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from sqlmodel import Field, Session, SQLModel

from localstore import App, Credentials, LocalConfiguration, Realm, Settings, SyncConfiguration, uuid7


class Counter(SQLModel, table=True):
    name: str = Field(primary_key=True)
    count: int = 0


class Trace(SQLModel, table=True):
    id: UUID = Field(default_factory=uuid7, primary_key=True)
    writer: str
    seen: int


def add_one(tx: Session, writer: str) -> None:
    """Read, add, and write: what another writer did in between would be lost."""
    counter = tx.get_one(Counter, "all")
    tx.add(Trace(writer=writer, seen=counter.count))
    counter.count += 1


def count(realm: Realm, writer: str, times: int) -> None:
    for _ in range(times):
        with realm.write() as tx:
            add_one(tx, writer)


async def count_async(realm: Realm, writer: str, times: int) -> None:
    for _ in range(times):
        async with realm.write_async() as tx:
            add_one(tx, writer)
            await asyncio.sleep(0)


async def count_in_tasks(realm: Realm, name: str, times: int, workers: int) -> None:
    await asyncio.gather(*(count_async(realm, f"{name} task {number}", times) for number in range(workers)))


def work(realm: Realm, name: str, times: int, workers: int) -> None:
    """Threads and tasks at once."""
    with ThreadPoolExecutor(workers) as pool:
        threads = [pool.submit(count, realm, f"{name} thread {number}", times) for number in range(workers)]
        asyncio.run(count_in_tasks(realm, name, times, workers))
        for thread in threads:
            thread.result()


def main() -> None:
    kind, database, name, times, workers = sys.argv[1:]
    with App.create("counting", remote=nowhere(database), settings=Settings()) as app:
        schema = {Counter, Trace}
        configurations: dict[str, LocalConfiguration | SyncConfiguration] = {
            "local": LocalConfiguration(path=database, schema=schema),
            "synced": SyncConfiguration(
                app.login(Credentials.anonymous()), schema=schema, path=database, stop_policy="immediately"
            ),
        }
        with Realm.open(configurations[kind]) as realm:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.readline()
            work(realm, name, int(times), int(workers))


def nowhere(database: str) -> str:
    """A remote that is not there, so that every changeset stays in the outbox to be counted."""
    return (Path(database).parent / "missing" / "remote").as_uri().replace("file:", "folder:", 1)


if __name__ == "__main__":
    main()
