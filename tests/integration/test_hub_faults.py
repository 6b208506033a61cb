"""A hub that dies, or whose database does, while devices write through it: nothing acknowledged is lost or there twice.

Hubs and devices are processes. ``FAULT_KILLS`` makes the runs longer; 60 take about a minute each.
"""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path

import pytest

from tests.integration.chaos_proxy import proxy
from tests.integration.fault_kit import PostgresStore, SqliteStore, Store, converge, devices, file_of, grow, hub
from tests.postgres_server import PostgresServer, running

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

_KILLS = int(os.environ.get("FAULT_KILLS", "8"))
_DEVICES = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return SqliteStore(tmp_path)
    return PostgresStore(request.getfixturevalue("postgres"))


def test_a_hub_that_is_killed_while_devices_push_loses_and_doubles_nothing(store: Store, tmp_path: Path) -> None:
    chance = random.Random(7)
    with hub(store.url, tmp_path) as server, devices(tmp_path, server.address, _DEVICES) as writers:
        for writer in writers:
            writer.do("begin")
        for _ in range(_KILLS):
            grow(store, chance.randint(1, 100))
            server.kill()
            server.start()
        grow(store, 50)
        written = converge(writers, [file_of(tmp_path, number) for number in range(_DEVICES)], store=store)
    _log.info("%d writes, %d kills", len(written), _KILLS)


def test_hubs_behind_one_address_that_die_in_turn_lose_and_double_nothing(postgres: PostgresServer, tmp_path: Path) -> None:
    chance = random.Random(13)
    store = PostgresStore(postgres)
    with (
        hub(store.url, tmp_path, users=True, heartbeat=1) as one,
        hub(store.url, tmp_path, users=True, heartbeat=1, add_user=False) as other,
        proxy(13, one.port, other.port, rate=0) as address,
        devices(tmp_path, address.address, 4, users=True) as writers,
    ):
        for writer in writers:
            writer.do("begin")
        for dying in [one, other] * (_KILLS // 4):
            grow(store, chance.randint(1, 100))
            dying.kill()
            grow(store, 20)  # through the one that is left
            dying.start()
        written = converge(writers, [file_of(tmp_path, number) for number in range(4)], store=store)
    _log.info("%d writes, %d kills", len(written), 2 * (_KILLS // 4))


def test_a_hub_that_stands_still_for_a_while_is_noticed_and_got_over(store: Store, tmp_path: Path) -> None:
    patience = {"connect_timeout": 2, "request_timeout": 2, "ping_period": 6, "pong_timeout": 6}
    with (
        hub(store.url, tmp_path, heartbeat=1) as server,
        devices(tmp_path, server.address, 4, **patience) as running,
    ):
        *writers, _ = running  # the last only listens
        for writer in writers:
            writer.do("begin")
        for _ in range(max(2, _KILLS // 8)):
            grow(store, 30)
            with server.standing_still():
                for one in running:
                    one.do("cut")
        grow(store, 30)
        converge(running, [file_of(tmp_path, number) for number in range(4)], store=store)


@pytest.mark.parametrize("modes", [("fast", "immediate")])
def test_a_database_that_is_restarted_under_a_hub_loses_and_doubles_nothing(tmp_path: Path, modes: tuple[str, ...]) -> None:
    restarts = [*modes] * max(2, _KILLS // 4)
    with running() as database:
        store = PostgresStore(database)
        with (
            hub(store.url, tmp_path, users=True) as server,
            devices(tmp_path, server.address, _DEVICES, users=True) as writers,
        ):
            for writer in writers:
                writer.do("begin")
            for mode in restarts:
                grow(store, 50)
                database.stop(mode)
                database.start()
            grow(store, 50)
            written = converge(writers, [file_of(tmp_path, number) for number in range(_DEVICES)], store=store)
    _log.info("%d writes, %d restarts", len(written), len(restarts))
