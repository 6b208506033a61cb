"""What people do to a hub that devices use: users shut out, tokens that end, wrong clocks, a database put back or emptied."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.device_kit import DeviceProcess
from tests.integration.fault_kit import (
    EMAIL,
    SEEDS,
    PostgresStore,
    SqliteStore,
    Store,
    converge,
    devices,
    file_of,
    grow,
    hub,
    numbers,
)
from tests.integration.real_tools import until
from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)
_CLOCKED = ("-m", "tests.integration.clocked_hub")
_HOUR = 3600
_LOOK = "The log's watch ended"
_NEVER = 3600  # seconds until anybody looks by themselves


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return SqliteStore(tmp_path)
    return PostgresStore(request.getfixturevalue("postgres"))


@pytest.mark.parametrize("seconds", [_HOUR, -_HOUR])
def test_a_hub_whose_clock_is_wrong_serves_as_any_other(seconds: int, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with (
        hub(store.url, tmp_path, users=True, program=(*_CLOCKED, str(seconds)), access_seconds=10, heartbeat=1) as server,
        devices(tmp_path, server.address, 2, users=True) as writers,
    ):
        for writer in writers:
            writer.do("begin")
        until(lambda: server.answered("refresh") >= 4, "tokens that are renewed")
        grow(store, 20)
        written = converge(writers, [file_of(tmp_path, number) for number in range(2)], store=store)
        assert not server.answered("push", 401), "each was renewed in time"
    _log.info("%d writes", len(written))


def test_a_token_that_ends_amid_pushes_is_renewed_once_and_nothing_is_lost(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with (
        hub(store.url, tmp_path, users=True, program=(*_CLOCKED, "0"), max_batch_count=1) as server,
        devices(tmp_path, server.address, 1, users=True) as (writer,),
    ):
        writer.do("begin")
        for times in (1, 2, 3):
            grow(store, 30)
            server.tell(f"later {_HOUR}")  # the device knows nothing of it
            grow(store, 30)
            assert server.answered("refresh") == times
        converge([writer], [file_of(tmp_path, 0)], store=store)


@pytest.mark.parametrize(
    ("words", "error", "why"),
    [
        (("grant", EMAIL, "default", "none"), "error ProtocolError", "failed"),
        (("user", "disable", EMAIL), "error Unauthorized", "refused"),
    ],
)
def test_whom_access_is_taken_from_is_told_within_a_heartbeat(
    words: tuple[str, ...], error: str, why: str, tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path)
    with (
        hub(store.url, tmp_path, users=True, heartbeat=1, poll_seconds=_NEVER) as server,
        devices(tmp_path, server.address, 2, users=True, may_err=True, ping_period=_NEVER) as (writer, reader),
    ):
        writer.do("write 3")
        reader.do("rows 3")
        for one in (writer, reader):
            one.do("synced")
        server.command(*words)
        for one in (writer, reader):  # neither asks for anything
            one.complain(error)
            one.do(f"why {why}")
        writer.do("write 6")
        assert store.count() == 3


def test_a_push_through_one_hub_wakes_devices_at_another(tmp_path: Path, postgres: PostgresServer) -> None:
    store = PostgresStore(postgres)
    with (
        hub(store.url, tmp_path, poll_seconds=_NEVER) as one,
        hub(store.url, tmp_path, poll_seconds=_NEVER) as other,
        devices(tmp_path, one.address, 1, ping_period=_NEVER) as (here,),
        devices(tmp_path, other.address, 2, first=1, ping_period=_NEVER) as (there, beside),
    ):
        for count in range(1, 6):
            here.do(f"write {count}")
            there.do(f"rows {2 * count - 1}")
            there.do(f"write {count}")
            here.do(f"rows {2 * count}")
            beside.do(f"rows {2 * count}")


def test_an_old_backup_of_the_database_is_noticed_and_what_it_lacks_is_given_to_it_again(store: Store, tmp_path: Path) -> None:
    with (
        hub(store.url, tmp_path) as server,
        devices(tmp_path, server.address, 2) as others,
        devices(tmp_path, server.address, 1, first=2, environment=SEEDS) as (keeper,),
    ):
        running = [*others, keeper]
        write(running, 5)
        store.back_up()
        write(running, 10)
        server.stop()
        for one in running:
            one.do("write 12")
        store.restore()
        server.start()
        for one in running:
            one.do("reset remote_restored")
        converge(running, files := [file_of(tmp_path, number) for number in range(3)])
        assert all(list(tmp_path.glob(f"{file.name}.backup-*")) for file in files), "as it was, for who wants it"
        numbers(store.url)


def test_an_emptied_database_waits_for_a_new_device_and_is_given_everything_again(store: Store, tmp_path: Path) -> None:
    with (
        hub(store.url, tmp_path) as server,
        devices(tmp_path, server.address, 2) as others,
        devices(tmp_path, server.address, 1, first=2, environment=SEEDS) as (keeper,),
    ):
        running = [*others, keeper]
        write(running, 5)
        server.stop()
        for one in running:
            one.do("write 7")
        store.empty()
        server.start()
        for one in running:
            one.do("cut")
        with devices(tmp_path, server.address, 1, first=3) as (new,):
            for one in running:
                one.do("reset remote_replaced")
            converge([*running, new], [file_of(tmp_path, number) for number in range(4)])
        numbers(store.url)


@pytest.mark.parametrize("users", [False, True])
def test_a_database_that_is_away_while_it_is_restored_is_waited_for(store: Store, users: bool, tmp_path: Path) -> None:
    with (
        hub(store.url, tmp_path, users=users) as server,
        devices(tmp_path, server.address, 3, users=users) as running,
    ):
        write(running, 5)
        store.back_up()
        store.empty()
        for one in running:
            one.do("waiting")
        looks = server.complaints().count(_LOOK)
        until(lambda: server.complaints().count(_LOOK) > looks + 2, "a hub that has seen that there is nothing")
        store.restore()
        for one in running:
            one.do("write 6")
        converge(running, [file_of(tmp_path, number) for number in range(3)], store=store)
        for one in running:
            one.do("reset none")


def write(running: Sequence[DeviceProcess], count: int) -> None:
    """Have all devices write up to a number, and all have it."""
    for one in running:
        one.do(f"write {count}")
    for one in running:
        one.do("upload")
    for one in running:
        one.do(f"rows {count * len(running)}")
        one.do("synced")
