"""What happens between devices and hubs: connections that break, lost answers, requests that come twice, cut cables."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chaos_proxy import Fault, proxy
from tests.integration.fault_kit import SqliteStore, converge, devices, file_of, grow, hub
from tests.integration.network_kit import SERVER, Link, a_link
from tests.integration.real_tools import until

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)

_TIMES = int(os.environ.get("FAULT_KILLS", "8"))
_CUTS = max(1, _TIMES // 8)
_DEVICES = 5


def test_a_bad_way_to_the_hub_loses_and_doubles_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with (
        hub(store.url, tmp_path, users=True, access_seconds=10, heartbeat=1) as server,
        proxy(11, server.port) as way,
        devices(tmp_path, way.address, _DEVICES, users=True) as writers,
    ):
        for writer in writers:
            writer.do("begin")
        until(lambda: all(way.counts[fault] >= _TIMES for fault in Fault), "every fault so often")
        until(lambda: server.answered("refresh") >= 2 * _DEVICES, "every device's token was renewed on this way")
        way.calm()
        written = converge(writers, [file_of(tmp_path, number) for number in range(_DEVICES)], store=store)
    _log.info("%d writes, %s", len(written), {fault.name: count for fault, count in way.counts.items()})


@pytest.fixture
def link() -> Iterator[Link]:
    with a_link() as link:
        yield link


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_a_network_that_is_cut_is_noticed_told_of_and_got_over(link: Link, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    patience = {"connect_timeout": 2, "request_timeout": 2, "ping_period": 6, "pong_timeout": 6}
    with (
        hub(store.url, tmp_path, host=SERVER, namespace=link.far, heartbeat=1) as server,
        devices(tmp_path, server.address, _DEVICES, namespace=link.near, **patience) as running,
    ):
        *writers, _ = running  # the last only listens
        for writer in writers:
            writer.do("begin")
        for cut, mend in [(link.down, link.up), (link.swallow, link.carry)] * _CUTS:
            grow(store, 30)
            cut()
            for one in running:
                one.do("cut")
            mend()
        grow(store, 30)
        written = converge(running, [file_of(tmp_path, number) for number in range(_DEVICES)], store=store)
    _log.info("%d writes, %d cuts", len(written), 2 * _CUTS)
