"""What users of a hub could do to it and to each other by being many, slow or persistent: each is bounded, and told so."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

import httpx2
import msgspec

from localstore.adapter import PushResult, SyncAdapter
from localstore.errors import Busy
from localstore.hub.access import Access, Person
from localstore.hub.application import Hub, create_hub
from localstore.hub.settings import HubSettings
from localstore.testing.clock import ManualClock, environment
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots, MemorySnapshotAdapter
from localstore.wire import SealedChangeset, encode
from localstore_adapters.sql import SqlAdapter, SqlStore
from tests.unit.hub_kit import APP, Device, PlayedAccounts, run, told


class FailingAccounts(PlayedAccounts):
    """Users of a database that can be away."""

    busy = False

    async def authenticate(self, access_token: str | None) -> Person:
        person = await super().authenticate(access_token)
        if self.busy:
            raise Busy("The accounts cannot be asked now.")
        return person


class Stage:
    """A hub in this event loop with two users who share the partition "default", and a clock that stands still."""

    def __init__(self, hub: Hub, client: httpx2.AsyncClient, accounts: FailingAccounts, clock: ManualClock) -> None:
        self.hub = hub
        self.client = client
        self.accounts = accounts
        self.clock = clock
        self.emma = Device(client, "emma")
        self.noah = Device(client, "noah")

    @contextlib.asynccontextmanager
    async def stream(self, device: Device) -> AsyncIterator[Stream]:
        stream = Stream(self.hub, device)
        stream.task = asyncio.ensure_future(stream.run())
        try:
            yield stream
        finally:
            stream.task.cancel()
            await asyncio.wait([stream.task])


class Stream:
    """A stream of events, as it leaves the hub: a client in the same event loop would wait for its end."""

    def __init__(self, hub: Hub, device: Device) -> None:
        self.hub = hub
        self.device = device
        self.status = 0
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.task: asyncio.Future[None] = asyncio.Future()

    async def run(self) -> None:
        headers = [(name.encode(), value.encode()) for name, value in self.device.headers.items()]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/events",
            "query_string": urlencode(self.device.query).encode(),
            "headers": headers,
            "client": ("198.51.100.7", 1),
        }
        await self.hub(scope, self._receive, self._send)
        self.told.put_nowait("end")

    async def next(self) -> str:
        return await self.told.get()

    async def _receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif self.status == 200 and message["body"]:
            self.told.put_nowait(message["body"].decode().partition("\n")[0].removeprefix("event: "))


def play(steps: Callable[[Stage], Any], make_log: Callable[[], SyncAdapter] | None = None, **settings: Any) -> None:
    remote, accounts, clock = MemoryRemoteWithSnapshots(), FailingAccounts("emma", "noah"), ManualClock()
    for name in accounts.people:
        accounts.grants[name, "default"] = Access.WRITE
    defaults = {"app": APP, "devices_write_snapshots": True, "user_rate": 0, "address_rate": 0}
    hub = create_hub(
        HubSettings(**{**defaults, **settings}),
        make_log=make_log or remote.adapter,
        accounts=accounts,
        environment=environment(clock),
    )

    async def begin() -> None:
        try:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(hub), base_url="http://hub") as client:
                await steps(Stage(hub, client, accounts, clock))
        finally:
            await hub.aclose()

    run(begin())


def test_a_stream_that_is_told_something_all_the_time_ends_as_well_when_access_is_taken() -> None:
    async def steps(on: Stage) -> None:
        await on.emma.connect()
        await on.noah.connect()
        async with on.stream(on.noah) as stream:
            assert await stream.next() == "head"
            del on.accounts.grants["noah", "default"]
            events = []
            for number in range(1, 12):
                await on.emma.push(on.emma.make(number))
                events.append(await stream.next())
                if events[-1] == "revoked":
                    break
                on.clock.advance(2.5)
            assert events[-1] == "revoked", "a heartbeat has long passed"
            assert await stream.next() == "end"

    play(steps, heartbeat=20.0)


def test_a_stream_whose_token_ends_while_accounts_cannot_be_asked_asks_no_more_often_than_before() -> None:
    async def steps(on: Stage) -> None:
        ends = on.clock.now_ms() / 1000 + 5
        on.accounts.people["noah"] = dataclasses.replace(on.accounts.people["noah"], expires_at=ends)
        await on.noah.connect()
        async with on.stream(on.noah) as stream:
            assert await stream.next() == "head"
            on.accounts.busy = True
            asked = on.accounts.authenticated
            on.clock.advance(5)
            while on.accounts.authenticated == asked:  # noqa: ASYNC110 - the clock wakes the stream in a later turn
                await asyncio.sleep(0)
            for _ in range(100):
                on.clock.advance(0.01)
                await asyncio.sleep(0)
            assert on.accounts.authenticated == asked + 1

    play(steps, heartbeat=20.0)


def test_one_users_streams_and_polls_are_bounded_and_leave_room_for_others() -> None:
    async def steps(on: Stage) -> None:
        mine = [Device(on.client, "noah") for _ in range(3)]
        async with on.stream(mine[0]) as one, on.stream(mine[1]) as other:
            assert (await one.next(), await other.next()) == ("head", "head")
            refused = await mine[2].get("events")
            poll = await mine[2].post("poll", {"partition": "default", "device": mine[2].device})
            for response in (refused, poll):
                assert (response.status_code, told(response)["kind"]) == (429, "rate_limited")
                assert int(response.headers["retry-after"]) > 0
            async with on.stream(on.emma) as stream:
                assert await stream.next() == "head"
        async with on.stream(mine[2]) as stream:
            assert await stream.next() == "head", "there is room again"

    play(steps, user_streams=2)


class Stuck(MemorySnapshotAdapter):
    """A line to a log in which one partition's lock is held by somebody."""

    async def push(self, batch: Sequence[SealedChangeset]) -> PushResult:
        if self._connected().partition == "stuck":
            await asyncio.Event().wait()
        return await super().push(batch)


def test_a_partition_that_is_stuck_holds_up_no_other() -> None:
    remote = MemoryRemoteWithSnapshots()

    async def steps(on: Stage) -> None:
        on.accounts.grants["noah", "stuck"] = Access.WRITE
        devices = [Device(on.client, "noah", "stuck") for _ in range(20)]
        for device in devices:
            await device.connect()
        waiting = [asyncio.ensure_future(device.push(device.make(1))) for device in devices]
        await asyncio.sleep(0)
        await on.emma.connect()
        assert told(await on.emma.push(on.emma.make(1)))["acknowledged"] == 1
        for push in waiting:
            push.cancel()
        await asyncio.wait(waiting)

    play(steps, lambda: Stuck(remote), max_calls=16)


def test_requests_are_counted_by_network_as_somebody_with_ipv6_has_any_number_of_addresses() -> None:
    async def steps(on: Stage) -> None:
        statuses = []
        for number in range(4):
            transport = httpx2.ASGITransport(on.hub, client=(f"2001:db8::{number}", 1))
            async with httpx2.AsyncClient(transport=transport, base_url="http://hub") as client:
                statuses.append((await client.get("/health")).status_code)
        assert statuses == [200, 200, 429, 429]

    play(steps, address_rate=1.0, address_burst=2.0)


def test_only_the_methods_that_are_meant_do_anything() -> None:
    async def steps(on: Stage) -> None:
        await on.emma.connect()
        for method in ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW"):
            for path in ("events", "snapshot", "snapshot/x", "push", "openapi.json"):
                response = await on.client.request(method, f"/v1/{path}", params=on.emma.query, headers=on.emma.headers)
                assert response.status_code == 404, (method, path)
        override = {"x-http-method-override": "POST", "x-method-override": "POST", "x-original-url": "/v1/push"}
        assert (await on.emma.get("push", **override)).status_code == 404
        assert (await on.client.head("/health")).status_code == 200, "monitors ask so"

    play(steps)


def test_no_text_of_a_stranger_is_a_label_of_the_metrics() -> None:
    async def steps(on: Stage) -> None:
        for number in range(20):
            device = Device(on.client, f"nobody{number}", f"place{number}")
            await device.post("ping", b"")
            await device.get(f"snapshot/name{number}")
            await on.client.request(f"VERB{number}", f"/v1/path{number}")
        text = on.hub.parts.metrics.text().decode()
        assert not any(word in text for word in ("nobody", "place", "name1", "VERB", "path"))
        assert text.count("_request_seconds_count{") == 2

    play(steps)


def test_who_has_no_access_claims_no_device_and_leaves_nothing_in_memory() -> None:
    """So nobody can take a device of a partition that they are not in before its owner comes."""

    async def steps(on: Stage) -> None:
        on.accounts.grants.pop(("noah", "default"))
        thief = Device(on.client, "noah", "default", on.emma.device)
        await thief.connect()
        await thief.push(thief.make(1))
        await thief.pull()
        await thief.get("events")
        await thief.get("snapshot")
        await thief.post("poll", {"partition": "default", "device": thief.device})
        assert on.accounts.owners == {}
        assert len(on.hub.parts.lines) == 0
        assert on.hub.parts.events.listener_count == 0
        assert (await on.emma.connect()).status_code == 200

    play(steps)


def test_a_cursor_and_a_snapshot_of_another_partition_are_not_taken(tmp_path: Path) -> None:
    def make_log() -> SqlAdapter:
        return SqlAdapter(store)

    async def steps(on: Stage) -> None:
        on.accounts.grants["noah", "other"] = Access.WRITE
        noah = Device(on.client, "noah", "other")
        for device in (on.emma, noah):
            await device.connect()
            await device.push(device.make(1), device.make(2))
        cursor = told(await Device(on.client, "emma").pull(remote_id=on.emma.remote_id))["cursor"]
        query = {**on.emma.query, "cursor": cursor.hex()}
        written = await on.client.post("/v1/snapshot", params=query, headers=on.emma.headers, content=b"secret")
        assert written.status_code == 200
        name = told(await on.emma.get("snapshot"))["name"]
        assert (await on.emma.get(f"snapshot/{name}")).content == b"secret"
        stolen = [await noah.get(f"snapshot/{name}"), await noah.pull(cursor=cursor)]
        assert [response.status_code for response in stolen] == [410, 409]
        assert all(b"secret" not in response.content for response in stolen)
        forged = b":".join([noah.remote_id.encode(), b"1", b"00" * 8])
        assert (await noah.pull(cursor=forged)).status_code == 409, "a position is not guessed"

    store = SqlStore(f"sqlite:///{tmp_path / 'log.db'}")
    play(steps, make_log)


def test_a_snapshot_whose_bytes_stop_coming_is_let_go_of() -> None:
    async def steps(on: Stage) -> None:
        await on.emma.connect()
        await on.emma.push(on.emma.make(1))
        cursor = told(await Device(on.client, "emma").pull(remote_id=on.emma.remote_id))["cursor"]

        async def slow() -> AsyncIterator[bytes]:
            yield b"some of it"
            on.clock.advance(61)
            await asyncio.Event().wait()

        query = {**on.emma.query, "cursor": cursor.hex()}
        response = await on.client.post("/v1/snapshot", params=query, headers=on.emma.headers, content=slow())
        assert (response.status_code, told(response)["kind"]) == (408, "timeout")
        assert (await on.emma.get("snapshot")).status_code == 204

    play(steps, body_timeout=60.0)


_JSON = {"content-type": "application/json", "accept": "application/json"}
_DEVICE = base64.b64encode(bytes(16)).decode()
_POLL = f'"partition":"default","device":"{_DEVICE}"'


@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("application/msgpack", msgspec.msgpack.encode({"partition": "default", "device": bytes(16), "wait": math.nan})),
        ("application/msgpack", msgspec.msgpack.encode({"partition": "default", "device": bytes(16), "wait": math.inf})),
        ("application/msgpack", b"\x81\xa1x" + b"\x91" * 60_000),
        ("application/json", f'{{{_POLL},"wait":NaN}}'.encode()),
        ("application/json", f'{{{_POLL},"wait":1e400}}'.encode()),
        ("application/json", f'{{{_POLL},"wait":{"9" * 5000}}}'.encode()),
        ("application/json", f'{{{_POLL},"x":{"[" * 60_000}'.encode()),
        ("application/json", b'{"partition":"\\ud800","device":"AA=="}'),
        ("application/json", f'{{"partition":"default","device":"{_DEVICE}\\n"}}'.encode()),
        ("application/json", b'{"partition":"default","device":"####################=="}'),
        ("application/json", msgspec.msgpack.encode({"partition": "default", "device": bytes(16)})),
    ],
    ids=[
        "nan",
        "infinity",
        "nested",
        "nan in json",
        "1e400",
        "digits",
        "nested json",
        "surrogate",
        "newline",
        "base64",
        "packed",
    ],
)
def test_values_that_no_device_sends_are_no_message(media: str, body: bytes) -> None:
    """A time limit that is no number would hold up every timer of the hub."""

    async def steps(on: Stage) -> None:
        response = await on.emma.post("poll", body, **{"content-type": media, "accept": "application/json"})
        assert (response.status_code, response.json()["kind"]) == (400, "protocol")

    play(steps)


def test_json_is_judged_as_messagepack_is() -> None:
    async def steps(on: Stage) -> None:
        await on.emma.connect()

        def said(device: Device, *batch: SealedChangeset) -> dict[str, Any]:
            sealed = [base64.b64encode(encode(one)).decode() for one in batch]
            name = base64.b64encode(device.device).decode()
            return {"partition": "default", "device": name, "remote_id": on.emma.remote_id, "batch": sealed}

        async def push(device: Device, body: bytes) -> httpx2.Response:
            return await on.client.post("/v1/push", content=body, headers={**device.headers, **_JSON})

        forged = await push(on.noah, json.dumps(said(on.emma, on.emma.make(1))).encode())
        assert (forged.status_code, forged.json()["reason"]) == (409, "device forked")
        others = await push(on.emma, json.dumps(said(on.emma, on.noah.make(1))).encode())
        assert (others.status_code, others.json()["kind"]) == (400, "protocol")
        text = json.dumps(said(on.emma, on.emma.make(1)))
        both = text.replace('{"partition": "default"', '{"partition": "default", "partition": "secret"')
        twice = await push(on.emma, both.encode())
        assert twice.status_code == 403, "of two names for one field one is used, for rights and for the log alike"
        assert (await push(on.emma, text.encode())).json()["acknowledged"] == 1

    play(steps)
