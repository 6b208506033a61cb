"""Attacks on a hub's endpoints: each is refused as it should be, leaves nothing behind, and learns nothing."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="needs the extra http")
pytest.importorskip("starlette", reason="needs the extra hub")

import httpx2
import msgspec

from localstore.adapter import Hello, Welcome
from localstore.errors import Offline
from localstore.hub.access import Access
from localstore.testing.clock import ManualClock, environment
from localstore.testing.conformance.suite import make_changeset, new_device
from localstore.testing.memory import MemoryAdapter, MemoryRemote
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots
from localstore.wire import encode, instead_of
from tests.unit.hub_kit import PATIENCE, Device, PlayedAccounts, RunningHub, hub_in_process, run, running_hub, told
from tests.unit.session_kit import eventually

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KIB, MIB = 1024, 1024 * 1024


class Attack:
    """A hub with two users: Emma may write to "default" and read "news"; Mallory may write to "own" alone."""

    def __init__(self, client: httpx2.AsyncClient, remote: MemoryRemote, accounts: PlayedAccounts) -> None:
        self.client = client
        self.remote = remote
        self.accounts = accounts
        self.emma = Device(client, "emma")

    def mallory(self, partition: str = "own", device: bytes | None = None) -> Device:
        return Device(self.client, "mallory", partition, device)


def attack(steps: Callable[[Attack], Any], **settings: Any) -> None:
    """Run an attack on a hub of its own."""
    remote, accounts = MemoryRemoteWithSnapshots(), PlayedAccounts("emma", "mallory")
    accounts.grants = {
        ("emma", "default"): Access.WRITE,
        ("emma", "news"): Access.READ,
        ("mallory", "own"): Access.WRITE,
    }

    async def begin() -> None:
        async with hub_in_process(remote.adapter, accounts, **settings) as client:
            await steps(Attack(client, remote, accounts))

    run(begin())


CALLS = ["connect", "push", "pull", "ping", "poll", "login", "refresh", "logout", "trim", "snapshot"]
READS = ["events", "snapshot", "snapshot/any"]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("version", "kind"), [(None, "too_old"), ("0", "too_old"), ("x", "too_old"), ("2", "too_new")])
def test_another_version_of_the_protocol_is_told_which_side_to_update(name: str, version: str | None, kind: str) -> None:
    async def steps(on: Attack) -> None:
        headers = {} if version is None else {"localstore-version": version}
        response = await on.client.post(f"/v1/{name}", headers=headers)
        assert (response.status_code, told(response)["kind"]) == (426, kind)

    attack(steps)


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer nobody", "Basic emma", "emma"])
def test_without_a_good_token_nothing_is_done_and_no_body_is_read(token: str) -> None:
    async def steps(on: Attack) -> None:
        device = on.mallory("default")
        device.headers["authorization"] = token
        for name in set(CALLS) - {"login", "refresh", "logout"}:
            response = await device.post(name, b"\xc1 is no message")
            assert (response.status_code, told(response)["kind"]) == (401, "unauthorized")
        for name in READS:
            assert (await device.get(name)).status_code == 401
        assert on.remote.changesets() == []

    attack(steps)


def test_another_users_partition_is_closed_whether_it_exists_or_not() -> None:
    async def steps(on: Attack) -> None:
        await on.emma.connect()
        await on.emma.push(on.emma.make(1))
        for partition in ("default", "not there", "user:emma", "../default", "default' OR '1'='1"):
            device = on.mallory(partition)
            answers = [await device.connect(), await device.push(device.make(1)), await device.pull()]
            answers += [await device.get(name) for name in READS]
            answers.append(await device.post("poll", {"partition": partition, "device": device.device}))
            assert {(answer.status_code, told(answer)["kind"]) for answer in answers} == {(403, "forbidden")}
            assert repr(partition) in told(answers[0])["message"]
        assert len(on.remote.changesets()) == 1

    attack(steps)


def test_a_device_of_another_user_is_served_nothing_and_nothing_is_stored_for_it() -> None:
    async def steps(on: Attack) -> None:
        on.accounts.grants["mallory", "default"] = Access.WRITE
        await on.emma.connect()
        await on.emma.push(on.emma.make(1))
        forger = on.mallory("default", on.emma.device)
        forger.remote_id = on.emma.remote_id
        answers = [await forger.connect(), await forger.push(forger.make(2)), await forger.pull()]
        answers += [await forger.get(name) for name in READS]
        assert {(answer.status_code, told(answer)["reason"]) for answer in answers} == {(409, "device forked")}
        assert on.remote.changesets() == [on.emma.make(1)]
        assert (await on.emma.push(on.emma.make(2))).status_code == 200

    attack(steps)


def test_a_changeset_in_the_name_of_another_device_is_not_taken() -> None:
    async def steps(on: Attack) -> None:
        await on.emma.connect()
        for batch in ([make_changeset(new_device(), 1)], [on.emma.make(1), make_changeset(new_device(), 2)]):
            response = await on.emma.push(*batch)
            assert (response.status_code, told(response)["kind"]) == (400, "protocol")
        for numbers in ((1, 3), (2, 1), (1, 1)):
            assert (await on.emma.push(*map(on.emma.make, numbers))).status_code == 400
        assert on.remote.changesets() == []

    attack(steps)


def test_a_replayed_push_is_stored_once_and_a_changed_one_not_at_all() -> None:
    async def steps(on: Attack) -> None:
        await on.emma.connect()
        for _ in range(2):
            assert told(await on.emma.push(on.emma.make(1)))["acknowledged"] == 1
        changed = await on.emma.push(on.emma.make(1, "changed"))
        assert (changed.status_code, told(changed)["reset"]) == (409, "DEVICE_FORKED")
        assert on.remote.changesets() == [on.emma.make(1)]

    attack(steps)


@pytest.mark.parametrize("field", ["stamp", "rows", "codec", "size", "digest", "body"])
def test_a_header_that_does_not_fit_its_body_is_refused(field: str) -> None:
    async def steps(on: Attack) -> None:
        await on.emma.connect()
        good, bad = on.emma.make(1), on.emma.make(2)
        value = getattr(bad, field)
        other = value[::-1] if isinstance(value, bytes) else value ^ 1
        forged = msgspec.structs.replace(bad, **{field: other})
        answer = told(await on.emma.push(good, forged, on.emma.make(3)))
        assert answer["acknowledged"] == 1
        assert [refusal["number"] for refusal in answer["refusals"]] == [2]
        assert on.remote.changesets() == [good]

    attack(steps)


def test_a_changeset_of_a_later_format_says_that_the_hub_is_too_old_for_it() -> None:
    async def steps(on: Attack) -> None:
        await on.emma.connect()
        response = await on.emma.push(msgspec.msgpack.encode([2, on.emma.device, 1, "whatever"]))
        assert (response.status_code, told(response)["kind"]) == (400, "newer_format")

    attack(steps)


class ReadOnly:
    """Emma's device in the partition that she may only read."""

    def __init__(self, on: Attack) -> None:
        self.device = Device(on.client, "emma", "news")

    async def refused(self, *batch: Any) -> tuple[int, list[int]]:
        answer = told(await self.device.push(*batch))
        return answer["acknowledged"], [refusal["number"] for refusal in answer["refusals"]]


def test_a_read_only_devices_writes_come_back_and_its_empty_changesets_are_taken() -> None:
    async def steps(on: Attack) -> None:
        reader = ReadOnly(on)
        assert told(await reader.device.connect())["access"] == "read"
        empty = [make_changeset(reader.device.device, number, rows=0) for number in (1, 2)]
        assert await reader.refused(reader.device.make(1)) == (0, [1])
        assert await reader.refused(*empty, reader.device.make(3)) == (2, [3])
        assert on.remote.changesets() == empty

    attack(steps)


def test_what_was_stored_before_access_was_taken_is_acknowledged_again() -> None:
    async def steps(on: Attack) -> None:
        await on.emma.connect()
        await on.emma.push(on.emma.make(1))
        on.accounts.grants["emma", "default"] = Access.READ
        answer = told(await on.emma.push(on.emma.make(1), on.emma.make(2)))
        assert answer["acknowledged"] == 1
        assert [refusal["number"] for refusal in answer["refusals"]] == [2]

    attack(steps)


def test_writes_that_are_dressed_up_as_empty_are_refused() -> None:
    async def steps(on: Attack) -> None:
        reader = ReadOnly(on)
        await reader.device.connect()
        sealed = reader.device.make(1)
        assert await reader.refused(instead_of(sealed, encode(sealed))) == (0, [1])
        claims_none = msgspec.structs.replace(sealed, rows=0)
        assert await reader.refused(claims_none) == (0, [1])
        assert on.remote.changesets() == []

    attack(steps)


def test_an_oversized_body_is_refused_by_what_it_says_and_by_what_comes() -> None:
    async def steps(on: Attack) -> None:
        await on.emma.connect()

        async def endless() -> Any:
            while True:
                yield bytes(64 * KIB)

        said = await on.client.post("/v1/push", content=bytes(200 * KIB), headers=on.emma.headers)
        came = await on.client.post("/v1/push", content=endless(), headers=on.emma.headers)
        for response in (said, came):
            assert (response.status_code, told(response)["kind"]) == (413, "too_large")
        login = await on.emma.post("login", bytes(100 * KIB))
        assert login.status_code == 413, "who is not logged in may send little"

    attack(steps, max_body_bytes=128 * KIB)


def test_a_decompression_bomb_is_refused() -> None:
    async def steps(on: Attack) -> None:
        bomb = zstd.compress(bytes(64 * MIB))
        assert len(bomb) < 16 * KIB
        for name in ("push", "pull", "login"):
            response = await on.emma.post(name, bomb, **{"content-encoding": "zstd"})
            assert response.status_code == 413
        for name, body in (("gzip", b"x"), ("zstd", b"no frame"), ("zstd", zstd.compress(b"x" * 99)[:-4])):
            response = await on.emma.post("push", body, **{"content-encoding": name})
            assert (response.status_code, told(response)["kind"]) == (400, "protocol")

    attack(steps, max_body_bytes=1 * MIB)


def test_all_bodies_together_are_bounded() -> None:
    async def steps(on: Attack) -> None:
        await on.emma.connect()
        response = await on.client.post("/v1/push", content=bytes(100 * KIB), headers=on.emma.headers)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert (await on.emma.push(on.emma.make(1))).status_code == 200

    attack(steps, max_bodies_bytes=64 * KIB)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        msgspec.msgpack.encode({"partition": "default", "device": b"short", "remote_id": "x", "batch": [b""]}),
        msgspec.msgpack.encode({"partition": 7, "device": bytes(16), "remote_id": "x", "batch": [b""]}),
        msgspec.msgpack.encode({"partition": "default", "device": bytes(16), "remote_id": "x", "batch": []}),
    ],
)
def test_a_body_that_is_no_message_is_told_so(body: bytes) -> None:
    async def steps(on: Attack) -> None:
        response = await on.emma.post("push", body)
        assert (response.status_code, told(response)["kind"]) == (400, "protocol")

    attack(steps)


def test_no_answer_quotes_a_secret() -> None:
    async def steps(on: Attack) -> None:
        wrong: list[dict[str, Any]] = [
            {"provider": "hunter2"},
            {"provider": "jwt", "secret": ["hunter2"]},
            {"provider": "jwt", "email": {"hunter2": 1}},
        ]
        for said in wrong:
            response = await on.emma.post("login", said)
            assert response.status_code == 400
            assert b"hunter2" not in response.content

    attack(steps)


@pytest.mark.parametrize("name", ["a\nFORGED line", "a\r\nx", "a\x1b[31m", "a\u2028b", "", "x" * 256])
def test_a_name_that_could_forge_a_line_of_the_log_is_none(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def steps(on: Attack) -> None:
        for said in ({"partition": name}, {"app": name}):
            assert (await on.emma.connect(**said)).status_code == 400
        device = Device(on.client, "emma", name)
        assert (await device.get("events")).status_code == 400
        unknown = await on.client.get("/v1/%0AFORGED", headers=on.emma.headers)
        assert (unknown.status_code, told(unknown)["kind"]) == (404, "not_found")

    caplog.set_level(logging.DEBUG)
    attack(steps)
    assert "FORGED" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("localstore"))


def test_a_path_in_a_name_leads_nowhere() -> None:
    async def steps(on: Attack) -> None:
        on.accounts.grants["mallory", "../../etc"] = Access.WRITE
        device = on.mallory("../../etc")
        await device.connect()
        for path in ("snapshot/..%2F..%2Fetc%2Fpasswd", "snapshot/%2e%2e/%2e%2e/etc/passwd", "snapshot/..\\..\\x"):
            response = await device.get(path)
            assert response.status_code in (404, 410)
        assert await device.push(device.make(1))
        assert on.remote.changesets("../../etc") == [device.make(1)], "it is a name as any other"

    attack(steps)


class Broken(MemoryAdapter):
    """A line to a log that fails with words that are nobody's business."""

    error: Exception = RuntimeError("/srv/secret/hub.db is broken")

    async def connect(self, hello: Hello) -> Welcome:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("/srv/secret/hub.db"), 500), (Offline("postgresql://root:pw@secret/db"), 503)]
)
def test_what_goes_on_inside_is_told_to_the_log_alone(error: Exception, status: int, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Broken):
        pass

    Failing.error = error
    remote = MemoryRemote()

    async def steps() -> httpx2.Response:
        async with hub_in_process(lambda: Failing(remote)) as client:
            return await Device(client, "anybody").connect()

    response = run(steps())
    problem = told(response)
    assert response.status_code == status
    assert b"secret" not in response.content
    assert b"Traceback" not in response.content
    if status == 500:
        assert any(problem["id"] in record.getMessage() for record in caplog.records)


def test_who_asks_too_often_is_told_when_to_come_again() -> None:
    clock = ManualClock()
    accounts = PlayedAccounts("emma", "mallory")
    settings = {"user_rate": 2.0, "user_burst": 3.0}

    async def steps() -> None:
        async with hub_in_process(MemoryRemote().adapter, accounts, environment(clock), **settings) as client:
            emma, mallory = Device(client, "emma"), Device(client, "mallory")
            assert [(await emma.post("ping", b"")).status_code for _ in range(4)] == [200, 200, 200, 429]
            refused = await emma.post("ping", b"")
            assert (told(refused)["kind"], told(refused)["retry_after"]) == ("rate_limited", 0.5)
            assert refused.headers["retry-after"] == "1"
            assert (await mallory.post("ping", b"")).status_code == 200, "nobody else is held up"
            clock.advance(0.5)
            assert (await emma.post("ping", b"")).status_code == 200

    run(steps())


def test_an_address_that_asks_too_often_costs_no_look_at_its_token() -> None:
    accounts = PlayedAccounts("emma")

    async def steps() -> None:
        clock = environment(ManualClock())
        async with hub_in_process(MemoryRemote().adapter, accounts, clock, address_rate=1.0, address_burst=2.0) as client:
            stranger = Device(client, "nobody")
            assert [(await stranger.post("ping", b"")).status_code for _ in range(4)] == [401, 401, 429, 429]
            assert accounts.authenticated == 2

    run(steps())


@pytest.mark.parametrize(("trusted", "last"), [("", 429), ("127.0.0.1", 200)])
def test_an_address_that_somebody_claims_counts_only_from_a_trusted_proxy(trusted: str, last: int) -> None:
    with running_hub(trusted_proxies=trusted, address_rate=0.001, address_burst=2.0) as hub:
        claimed = [{"x-forwarded-for": f"203.0.113.{number}"} for number in range(3)]
        answers = [httpx2.get(f"{hub.address}/health", headers=headers).status_code for headers in claimed]
    assert answers == [200, 200, last]


def test_metrics_are_for_this_computer_or_for_who_has_the_token() -> None:
    async def steps(on: Attack) -> None:
        assert (await on.client.get("/metrics")).status_code == 200
        assert (await on.client.get("/metrics", headers={"x-forwarded-for": "203.0.113.9"})).status_code == 404

    async def with_token(on: Attack) -> None:
        assert (await on.client.get("/metrics")).status_code == 404
        assert (await on.client.get("/metrics", headers={"authorization": "Bearer wrong"})).status_code == 404
        response = await on.client.get("/metrics", headers={"authorization": "Bearer right"})
        assert response.status_code == 200
        assert "localstore_hub_listeners 0.0" in response.text

    attack(steps)
    attack(with_token, metrics_token="right")


def _answer(connection: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    connection.settimeout(PATIENCE)
    received = b""
    while chunk := connection.recv(4096):
        received += chunk
    return received


@pytest.mark.parametrize("head", [b"", b"POST /v1/ping HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_who_sends_the_head_of_a_request_slowly_is_cut_off(head: bytes) -> None:
    with running_hub(header_timeout=0.2) as hub, socket.create_connection(("127.0.0.1", hub.port)) as connection:
        connection.sendall(head)
        assert _answer(connection) == b""


def test_who_sends_the_next_requests_head_slowly_is_cut_off_too() -> None:
    with running_hub(header_timeout=0.2) as hub, socket.create_connection(("127.0.0.1", hub.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.settimeout(PATIENCE)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /hea")
        assert b"HTTP" not in _answer(connection)


def test_who_does_not_take_an_answer_is_cut_off() -> None:
    remote = MemoryRemote()

    async def fill(hub: RunningHub) -> bytes:
        async with httpx2.AsyncClient(base_url=hub.address) as client:
            device = Device(client, "anybody")
            await device.connect()
            await device.push(make_changeset(device.device, 1, blob_bytes=8 * MIB))
            said = {"partition": "default", "device": device.device, "remote_id": device.remote_id}
            return msgspec.msgpack.encode(said)

    with running_hub(remote.adapter, body_timeout=0.5) as hub, socket.socket() as connection:
        body = run(fill(hub))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hub.port))
        head = f"POST /v1/pull HTTP/1.1\r\nhost: x\r\nlocalstore-version: 1\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        connection.settimeout(PATIENCE)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        eventually(lambda: not hub.connection_count, "the end of the connection")


def test_who_sends_a_body_slowly_is_told_so_and_cut_off() -> None:
    head = b"POST /v1/connect HTTP/1.1\r\nhost: x\r\nlocalstore-version: 1\r\ncontent-length: 1000\r\n\r\nslow"
    with running_hub(body_timeout=0.2) as hub, socket.create_connection(("127.0.0.1", hub.port)) as connection:
        connection.sendall(head)
        assert _answer(connection).startswith(b"HTTP/1.1 408")
