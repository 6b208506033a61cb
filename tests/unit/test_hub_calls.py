"""What a hub's calls answer when all is well, as somebody sees it who speaks the protocol by hand."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

import msgspec

from localstore.adapter import Cursor
from localstore.environment import Environment
from localstore.http_messages import MESSAGE_PACK, decompressed
from localstore.testing.conformance.suite import make_changeset
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore.wire import decode, encode
from tests.unit.hub_kit import APP, Device, hub_in_process, run, told

JSON = {"content-type": "application/json", "accept": "application/json"}


def test_json_says_the_same_with_bytes_as_base64() -> None:
    remote = MemoryRemoteWithSnapshots()

    async def steps() -> None:
        async with hub_in_process(remote.adapter) as client:
            device = Device(client, "anybody")
            who = {"partition": "default", "device": base64.b64encode(device.device).decode()}
            headers = {**device.headers, **JSON}
            welcome = (await client.post("/v1/connect", json={"app": APP, **who}, headers=headers)).json()
            assert welcome["access"] == "write"
            who["remote_id"] = welcome["remote_id"]
            batch = [base64.b64encode(encode(device.make(1))).decode()]
            pushed = await client.post("/v1/push", json={**who, "batch": batch}, headers=headers)
            assert pushed.json() == {"acknowledged": 1, "refusals": []}
            page = (await client.post("/v1/pull", json=who, headers=headers)).json()
            assert page["changesets"] == batch
            assert page["more"] is False
            refused = await client.post("/v1/pull", json={**who, "partition": ""}, headers=headers)
            assert refused.json()["kind"] == "protocol"

    run(steps())


def test_many_small_changesets_are_compressed_and_a_large_one_is_not_again() -> None:
    remote = MemoryRemoteWithSnapshots()

    async def steps() -> None:
        async with hub_in_process(remote.adapter) as client:
            small, large = Device(client, "anybody", "small"), Device(client, "anybody", "large")
            batches = {
                small: [small.make(n) for n in range(1, 101)],
                large: [make_changeset(large.device, 1, blob_bytes=50_000)],
            }
            for device, batch in batches.items():
                await device.connect()
                await device.push(*batch)
                device.headers |= {"accept-encoding": "zstd", "accept": MESSAGE_PACK}
                said = {"partition": device.partition, "device": device.device, "remote_id": device.remote_id}
                async with client.stream(
                    "POST", "/v1/pull", content=msgspec.msgpack.encode(said), headers=device.headers
                ) as response:
                    raw = b"".join([chunk async for chunk in response.aiter_raw()])
                    compressed = response.headers.get("content-encoding") == "zstd"
                assert compressed == (device is small)
                page = msgspec.msgpack.decode(decompressed(raw, 1 << 20) if compressed else raw)
                assert list(map(decode, page["changesets"])) == batch

    run(steps())


def test_a_large_changeset_is_looked_through_beside_the_event_loop() -> None:
    remote = MemoryRemoteWithSnapshots()
    world = Environment()
    beside: list[str] = []

    async def run_blocking(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        beside.append(function.__name__)
        return await world.run_blocking(function, *arguments, **named)

    async def steps() -> None:
        noting = dataclasses.replace(world, run_blocking=run_blocking)
        async with hub_in_process(remote.adapter, environment=noting) as client:
            device = Device(client, "anybody")
            await device.connect()
            assert (await device.push(device.make(1))).status_code == 200
            assert beside == []
            large = make_changeset(device.device, 2, blob_bytes=3 * 1024 * 1024)
            assert told(await device.push(large))["acknowledged"] == 2
            assert beside == ["_checked"]
            other = make_changeset(b"x" * 16, 3, blob_bytes=3 * 1024 * 1024)
            assert told(await device.push(other))["kind"] == "protocol"

    run(steps())


def test_a_page_is_no_larger_than_the_hub_wants_whatever_is_asked_for() -> None:
    remote = MemoryRemoteWithSnapshots()

    async def steps() -> None:
        async with hub_in_process(remote.adapter, page_count=3) as client:
            device = Device(client, "anybody")
            await device.connect()
            await device.push(*(device.make(number) for number in range(1, 6)))
            page = told(await device.pull(max_count=1_000_000, max_bytes=1 << 40))
            assert (len(page["changesets"]), page["more"]) == (3, True)

    run(steps())


async def _once(content: bytes) -> AsyncGenerator[bytes]:
    yield content


def test_a_snapshot_is_given_from_any_place_on() -> None:
    remote = MemoryRemoteWithSnapshots()

    async def steps() -> None:
        async with hub_in_process(remote.adapter) as client:
            device = Device(client, "anybody")
            await device.connect()
            assert (await device.get("snapshot")).status_code == 204
            cursor = told(await device.pull())["cursor"]
            query = {**device.query, "cursor": cursor.hex()}
            written = await client.post("/v1/snapshot", params=query, content=_once(b"0123456789"), headers=device.headers)
            assert written.status_code == 200
            info = told(await device.get("snapshot"))
            assert (Cursor(info["cursor"]), info["byte_count"]) == (cursor, 10)
            name = f"snapshot/{info['name']}"
            assert (await device.get(name)).content == b"0123456789"
            part = await device.get(name, range="bytes=7-")
            assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"789", "bytes 7-9/10")
            assert (await device.get(name, range="bytes=10-")).status_code == 416
            assert (await device.get("snapshot/older")).status_code == 410

    run(steps())


def test_devices_write_no_snapshots_where_the_hub_does_not_want_it() -> None:
    async def steps() -> None:
        remote = MemoryRemoteWithSnapshots()
        async with hub_in_process(remote.adapter, devices_write_snapshots=False) as client:
            device = Device(client, "anybody")
            assert told(await device.connect())["devices_write_snapshots"] is False
            for name in ("snapshot", "trim"):
                query = {**device.query, "cursor": ""}
                refused = await client.post(f"/v1/{name}", params=query, content=b"x", headers=device.headers)
                assert (refused.status_code, told(refused)["kind"]) == (403, "forbidden")

    run(steps())


def test_a_hub_lives_while_its_log_is_away_and_says_that_it_is_not_ready() -> None:
    remote = MemoryRemoteWithSnapshots()

    async def steps() -> None:
        async with hub_in_process(remote.adapter) as client:
            assert (await client.get("/ready")).status_code == 200
            remote.go_offline()
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/ready")).status_code == 503
            remote.go_online()
            assert (await client.get("/ready")).status_code == 200

    run(steps())


def test_a_poll_comes_back_when_its_time_is_up_or_at_once_with_news() -> None:
    remote = MemoryRemoteWithSnapshots()

    async def steps() -> None:
        async with hub_in_process(remote.adapter) as client:
            device, other = Device(client, "anybody"), Device(client, "anybody")
            await other.connect()
            who = {"partition": "default", "device": device.device}
            first = told(await device.post("poll", who))
            assert first["news"]
            quiet = told(await device.post("poll", {**who, "seen": first["seen"], "wait": 0.01}))
            assert not quiet["news"]
            waiting = asyncio.ensure_future(device.post("poll", {**who, "seen": quiet["seen"], "wait": 50}))
            await other.push(other.make(1))
            assert told(await waiting)["news"]

    run(steps())
