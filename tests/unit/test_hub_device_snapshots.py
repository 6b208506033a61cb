"""Snapshots that devices make through a hub: who may, how large one may be, and how long it may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

import httpx2

from localstore.hub.access import Access
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from tests.unit.hub_kit import Device, PlayedAccounts, hub_in_process, run, told


def test_a_device_that_may_write_makes_one_where_that_is_allowed_and_no_other_does() -> None:
    async def steps(on: Device, accounts: PlayedAccounts) -> None:
        await on.connect()
        await on.push(on.make(1))
        cursor = told(await on.pull())["cursor"]
        accounts.grants["emma", "default"] = Access.READ
        assert (await sent(on, cursor, b"a snapshot")).status_code == 403
        accounts.grants["emma", "default"] = Access.WRITE
        assert (await sent(on, cursor, b"a snapshot")).status_code == 200
        assert told(await on.get("snapshot"))["byte_count"] == 10

    with_emma(steps, devices_write_snapshots=True)
    with_emma(is_forbidden, devices_write_snapshots=False)


async def is_forbidden(on: Device, accounts: PlayedAccounts) -> None:
    await on.connect()
    assert (await sent(on, b"", b"a snapshot")).status_code == 403


def test_a_snapshot_that_is_too_large_is_not_kept() -> None:
    async def steps(on: Device, accounts: PlayedAccounts) -> None:
        await on.connect()
        await on.push(on.make(1))
        cursor = told(await on.pull())["cursor"]
        assert (await sent(on, cursor, bytes(1001))).status_code == 413
        assert (await on.get("snapshot")).status_code == 204

    with_emma(steps, max_snapshot_bytes=1000)


def test_a_snapshot_that_does_not_go_on_is_not_waited_for() -> None:
    async def drip() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def steps(on: Device, accounts: PlayedAccounts) -> None:
        await on.connect()
        await on.push(on.make(1))
        cursor = told(await on.pull())["cursor"]
        assert (await sent(on, cursor, drip())).status_code == 408
        assert (await on.get("snapshot")).status_code == 204

    with_emma(steps, body_timeout=0.05)


async def sent(on: Device, cursor: bytes, content: bytes | AsyncIterator[bytes]) -> httpx2.Response:
    query = {**on.query, "remote_id": on.remote_id, "cursor": cursor.hex()}
    return await on.client.post("/v1/snapshot", params=query, content=content, headers=on.headers)


def with_emma(steps: Callable[[Device, PlayedAccounts], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """A hub with one user, who may write."""
    accounts = PlayedAccounts("emma")
    accounts.grants = {("emma", "default"): Access.WRITE}

    async def begin() -> None:
        async with hub_in_process(MemoryRemoteWithSnapshots().adapter, accounts, **settings) as client:
            await steps(Device(client, "emma"), accounts)

    run(begin())
