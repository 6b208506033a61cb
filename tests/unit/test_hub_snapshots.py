"""Snapshots that a hub makes in the background: what a new device gets of them, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

from typer.testing import CliRunner

from localstore import App, Credentials, Realm, SyncConfiguration
from localstore.adapter import Hello, Welcome
from localstore.cli import app as cli
from localstore.encryption import encrypted
from localstore.environment import Environment
from localstore.errors import Offline
from localstore.hub.commands import _with_snapshots
from localstore.hub.lines import Lines
from localstore.hub.merged_files import MergedFiles
from localstore.hub.metrics import Metrics
from localstore.hub.models import load_tables
from localstore.hub.settings import HubSettings
from localstore.hub.snapshot_maker import SnapshotMaker
from localstore.registry import AdapterFactory
from localstore.schema import tables_of
from localstore.testing.clock import ManualClock, environment
from localstore.testing.conformance.suite import new_device
from localstore.testing.faulty import Raise
from localstore.testing.memory import MemoryAdapter
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from tests.unit.hub_kit import APP, running_hub
from tests.unit.session_kit import PATIENCE, Note, World, add, eventually, texts
from tests.unit.wire_kit import forge

T = TypeVar("T")
EVERY = 10
DAY_S = 86_400
DEVICES: dict[str, Any] = {"snapshot_every": 0}
"""Settings of devices that leave snapshots to the hub."""


class OneOfAKind(SQLModel, registry=registry()):
    """Tables of these tests."""


class Ticket(OneOfAKind, table=True):
    """What has to be unique, and refers to another, so that merging has something to repair."""

    id: UUID = Field(primary_key=True)
    seat: str = Field(unique=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        made.remote = MemoryRemoteWithSnapshots(environment=environment(made.clock, seed=1000))
        yield made


def own_lines(make_log: AdapterFactory, surroundings: Environment) -> Lines:
    return Lines(make_log, "kit", max_lines=1, max_calls=1, environment=surroundings)


def maker(
    world: World,
    make_log: AdapterFactory | None = None,
    *,
    models: bool = True,
    directory: str = "hub",
    schema: set[Any] | None = None,
    every: int = EVERY,
) -> SnapshotMaker:
    """What a process of the hub looks after partitions with."""
    surroundings = environment(world.clock, seed=77)
    files = MergedFiles(
        world.directory / directory, tables_of(schema or {Note}), app="kit", offline_days=30, environment=surroundings
    )
    return SnapshotMaker(
        own_lines(make_log or world.remote.adapter, surroundings),
        every=every,
        horizon_days=30,
        keeps_snapshots=True,
        files=files if models else None,
        environment=surroundings,
        metrics=Metrics(),
    )


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def look(of: SnapshotMaker, partition: str = "default") -> None:
    """One look at a partition, as after a push."""
    of.note(partition)
    of.look_at_all()
    run(of.step())


def write_many(realm: Realm, count: int, word: str = "note") -> None:
    """So many changesets, all at the remote."""
    for number in range(count):
        add(realm, f"{word} {number}")
    assert realm.sync_session.upload_all_local_changes(PATIENCE)


def made(of: SnapshotMaker) -> int:
    """How many snapshots it has made."""
    found = [line for line in of._metrics.text().decode().splitlines() if line.startswith("localstore_hub_snapshots_total")]
    return int(float(found[0].split()[-1]))


def test_a_new_device_takes_the_hubs_snapshot_and_no_history(world: World) -> None:
    realm = world.open(**DEVICES)
    write_many(realm, EVERY)
    hub = maker(world)
    look(hub)
    assert made(hub) == 1
    line = world.line()
    with world.device("new", remote=line, **DEVICES).open() as new:
        assert new.sync_session.download_all_server_changes(PATIENCE)
        assert texts(new) == texts(realm)
    assert line.count("read_snapshot") == 1
    assert line.calls.index("read_snapshot") < line.calls.index("pull")
    assert sum(page_count(world)) == 0


def page_count(world: World) -> list[int]:
    """Changesets after the snapshot, which are all that a new device pulls."""
    info = world.remote._snapshots["default"][0]  # type: ignore[attr-defined]
    return [len(world.remote.changesets()) - int(bytes(info.cursor).split(b":")[1])]


def test_none_is_made_before_so_many_changesets_came(world: World) -> None:
    realm = world.open(**DEVICES)
    write_many(realm, EVERY - 1)
    hub = maker(world)
    look(hub)
    assert made(hub) == 0
    write_many(realm, 1, "last")
    look(hub)
    assert made(hub) == 1


def test_the_next_one_takes_only_what_is_new_of_the_log(world: World) -> None:
    realm, line = world.open(**DEVICES), world.line()
    write_many(realm, EVERY)
    look(maker(world, line))
    write_many(realm, EVERY, "second")
    again = maker(world, line)  # another process, after a restart
    before = len(line.calls)
    look(again)
    assert made(again) == 1
    assert line.calls[before:].count("read_snapshot") == 0
    assert page_count(world) == [0]


def test_a_file_that_is_lost_or_damaged_begins_with_the_last_snapshot(world: World) -> None:
    realm = world.open(**DEVICES)
    write_many(realm, EVERY)
    look(maker(world))
    (merged,) = (world.directory / "hub").rglob("merged.db")
    for damage in (lambda: merged.write_bytes(b"no database" * 1000), lambda: shutil.rmtree(world.directory / "hub")):
        damage()
        write_many(realm, EVERY, "more")
        hub = maker(world)
        look(hub)
        assert made(hub) == 1
    assert world.remote_texts() == texts(realm)


def test_a_log_that_was_replaced_begins_a_new_file(world: World) -> None:
    write_many(world.open("one", **DEVICES), EVERY)
    look(maker(world))
    world.device("one").close()
    for device in world._devices:
        device.close()
    world.remote.wipe()
    realm = world.open("other", **DEVICES)
    write_many(realm, EVERY, "of the other history")
    hub = maker(world)
    look(hub)
    assert made(hub) == 1
    assert world.remote_texts() == texts(realm)


def test_a_log_that_was_emptied_gets_no_history_from_who_makes_snapshots(world: World) -> None:
    hellos: list[Hello] = []

    class Noting(MemoryAdapter):
        async def connect(self, hello: Hello) -> Welcome:
            hellos.append(hello)
            return await super().connect(hello)

    hub = maker(world, lambda: Noting(world.remote))
    known = world.remote.remote_id

    async def steps() -> None:
        await hub._lines.connect(Hello(app="kit", partition="default", device=new_device()))
        world.remote.wipe()
        hub.note("default")
        await hub.step()

    run(steps())
    assert [hello.remote_id for hello in hellos] == [None, known]


def test_what_was_counted_of_another_history_does_not_count(world: World) -> None:
    device = world.device("one", **DEVICES)
    write_many(device.open(), EVERY - 1)
    hub = maker(world)
    look(hub)
    device.close()
    world.remote.wipe()
    realm = world.open("other", **DEVICES)
    write_many(realm, EVERY - 1, "of the other history")
    look(hub)
    look(hub)
    assert made(hub) == 0
    write_many(realm, 1, "last")
    look(hub)
    assert made(hub) == 1


def test_a_device_whose_clock_is_far_ahead_keeps_its_partition_from_no_snapshot(world: World) -> None:
    ahead = ManualClock()
    ahead.advance(2 * DAY_S)
    write_many(world.device("ahead", clock=ahead, **DEVICES).open(), 1, "of tomorrow")
    realm = world.open(**DEVICES)
    write_many(realm, EVERY)
    hub = maker(world)
    look(hub)
    assert made(hub) == 1
    with world.device("new", **DEVICES).open() as new:
        assert new.sync_session.download_all_server_changes(PATIENCE)
        assert texts(new) == texts(realm)
        assert len(texts(new)) == EVERY
        world.clock.advance(2 * DAY_S)
        assert new.sync_session.download_all_server_changes(PATIENCE)
        assert "of tomorrow 0" in texts(new)


def test_a_process_passes_over_what_another_one_is_at(world: World) -> None:
    write_many(world.open(**DEVICES), EVERY)
    one, other = maker(world), maker(world)
    assert one._files is not None
    with one._files.held("default") as file:
        assert file is not None
        look(other)
    assert made(other) == 0
    look(other)
    assert made(other) == 1
    look(one)
    assert made(one) == 0, "there is nothing new"


@pytest.mark.parametrize("partition", ["../../x", "/etc", "a/b", "user:1", "con", "A", "\x00", "x" * 1000])
def test_a_partitions_file_lies_in_its_place_whatever_its_name(world: World, partition: str) -> None:
    files = maker(world)._files
    assert files is not None
    with files.held(partition) as file:
        assert file is not None
    (place,) = (world.directory / "hub").iterdir()
    assert [path.name for path in place.iterdir()] == ["in-use"]


def test_what_fails_is_told_and_tried_again(world: World) -> None:
    realm, line = world.open(**DEVICES), world.line()
    write_many(realm, EVERY)
    hub = maker(world, line)
    for call in ("connect", "latest_snapshot", "pull", "write_snapshot"):
        line.break_down(**{call: Raise(Offline("The log is away."))})
        look(hub)
        assert made(hub) == 0
    assert b"snapshots_failed_total 4.0" in hub._metrics.text()
    line.recover()
    look(hub)
    assert made(hub) == 1
    assert world.remote_texts() == texts(realm)
    assert not list(world.directory.rglob("*.snapshot-*")), "nothing is left over"


def test_a_changeset_that_nobody_can_read_does_not_make_it_read_all_anew(world: World) -> None:
    realm, line = world.open(**DEVICES), world.line()
    write_many(realm, EVERY)
    hub = maker(world, line)
    look(hub)

    async def push_what_is_malformed() -> None:
        forged = forge(b"no body")
        adapter = world.remote.adapter()
        await adapter.connect(Hello(app="kit", partition="default", device=forged.device))
        await adapter.push([forged])
        await adapter.close()

    write_many(realm, EVERY, "more")
    realm.sync_session.pause()
    run(push_what_is_malformed())
    before = len(line.calls)
    look(hub)
    assert made(hub) == 1
    assert b"snapshots_failed_total 1.0" in hub._metrics.text()
    assert line.calls[before:].count("pull") == 1
    assert line.calls[before:].count("read_snapshot") == 0


def test_an_encrypted_partition_is_left_to_its_devices(world: World) -> None:
    secret = encrypted(world.remote.adapter, key=bytes(range(32)))
    write_many(world.open(remote=secret, **DEVICES), EVERY)
    line = world.line()
    hub = maker(world, line)
    look(hub)
    look(hub)
    assert made(hub) == 0
    assert line.count("pull") == 1, "once seen, it is not read again"
    assert b"snapshots_failed_total 0.0" in hub._metrics.text()


def test_an_encrypted_partition_is_trimmed_by_what_its_devices_made(world: World) -> None:
    secret = encrypted(world.remote.adapter, key=bytes(range(32)))
    realm = world.open(remote=secret, snapshot_every=EVERY)
    write_many(realm, EVERY)
    eventually(lambda: world.remote._snapshots, "the device's snapshot")  # type: ignore[attr-defined]
    realm.sync_session.pause()
    line = world.line()
    hub = maker(world, line, every=1)
    look(hub)
    look(hub)
    assert made(hub) == 0
    assert line.count("trim") >= 1
    assert b"snapshots_failed_total 0.0" in hub._metrics.text()


def test_without_models_the_hub_trims_what_devices_made_snapshots_of(world: World) -> None:
    realm, line = world.open(**DEVICES), world.line()
    write_many(realm, EVERY)
    look(maker(world))
    hub = maker(world, line, models=False)
    look(hub)
    assert made(hub) == 0
    assert line.count("trim") == 1


def test_tables_that_the_hub_does_not_know_come_through_it(world: World) -> None:
    realm = world.open(**DEVICES)
    write_many(realm, EVERY)
    hub = maker(world, schema={Ticket})
    look(hub)
    assert made(hub) == 1
    assert world.remote_texts() == texts(realm)


def test_a_hub_whose_models_changed_goes_on(world: World) -> None:
    realm = world.open(**DEVICES)
    write_many(realm, EVERY)
    look(maker(world, schema={Ticket}))
    write_many(realm, EVERY, "more")
    hub = maker(world, schema={Ticket, Note})
    look(hub)
    assert made(hub) == 1
    assert world.remote_texts() == texts(realm)


def test_what_merging_repairs_is_the_same_on_a_new_device(world: World) -> None:
    devices = [world.device(name, **DEVICES) for name in ("one", "two")]
    realms = [device.open(schema={Ticket}) for device in devices]
    for number, realm in enumerate(realms):
        realm.sync_session.pause()
        with realm.write() as tx:
            tx.add(Ticket(id=UUID(int=number), seat="A1"))
    for realm in realms:
        realm.sync_session.resume()
        assert realm.sync_session.upload_all_local_changes(PATIENCE)
    hub = maker(world, schema={Ticket}, every=2)
    look(hub)
    assert made(hub) == 1
    with world.device("new", **DEVICES).open(schema={Ticket}) as new:
        assert new.sync_session.download_all_server_changes(PATIENCE)
        assert realms[0].sync_session.download_all_server_changes(PATIENCE)
        assert [t.id for t in new.exec(select(Ticket)).all()] == [t.id for t in realms[0].exec(select(Ticket)).all()]
        assert len(new.conflicts()) == 1, "the one that is not shown is not lost"


def test_pushes_wake_it_before_the_next_round(world: World) -> None:
    write_many(world.open(**DEVICES), EVERY)
    hub = maker(world)

    async def steps() -> None:
        running = asyncio.ensure_future(hub.run())
        hub.note("default", EVERY)
        for _ in range(int(PATIENCE / 0.005)):
            if made(hub):
                break
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.wait([running])

    run(steps())
    assert made(hub) == 1


def test_models_are_those_of_a_module() -> None:
    assert [table.name for table in load_tables(__name__)] == ["note", "ticket"]
    assert [table.name for table in load_tables(f"{__name__}:SOME")] == ["ticket"]


SOME = {Ticket}


@pytest.mark.parametrize("name", ["nothing.there", "json", f"{__name__}:EVERY", f"{__name__}:missing", ""])
def test_what_names_no_models_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="models"):
        load_tables(name)


def test_a_hub_that_knows_the_models_does_it_by_itself(tmp_path: Path) -> None:
    remote = MemoryRemoteWithSnapshots()
    settings = {"models": __name__, "snapshot_every": EVERY, "snapshot_files": tmp_path / "hub"}
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(running_hub(remote.adapter, devices_write_snapshots=False, **settings))

        def opened(name: str) -> Realm:
            app = App.create(APP, remote=f"{hub.address}?users=no")
            stack.callback(app.close)
            configuration = SyncConfiguration(app.login(Credentials.anonymous()), {Note}, path=tmp_path / f"{name}.db")
            return stack.enter_context(contextlib.closing(Realm.open(configuration)))

        realm = opened("one")
        write_many(realm, EVERY)
        eventually(lambda: remote._snapshots, "the snapshot")
        new = opened("new")
        assert new.sync_session.download_all_server_changes(PATIENCE)
        assert texts(new) == texts(realm)


def test_where_nobody_said_who_makes_snapshots_devices_do_it_if_all_are_trusted(caplog: pytest.LogCaptureFixture) -> None:
    def devices_do_it(*, open_to_all: bool, **settings: Any) -> bool:
        return _with_snapshots(HubSettings(app="todo", **settings), open_to_all).devices_write_snapshots

    assert devices_do_it(open_to_all=True)
    assert not devices_do_it(open_to_all=True, devices_write_snapshots=False)
    assert not devices_do_it(open_to_all=True, models=__name__)
    assert not devices_do_it(open_to_all=False, models=__name__)
    assert not caplog.messages
    assert not devices_do_it(open_to_all=False)
    assert "LOCALSTORE_HUB_MODELS" in caplog.text


def test_a_hub_with_models_that_cannot_be_used_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALSTORE_HUB_MODELS", "nothing.there")
    done = CliRunner().invoke(cli, ["hub", "serve", "--app", "todo", "--store", "memory://x", "--open"])
    assert done.exit_code == 1
    assert "nothing.there" in done.output
