"""Who may do what with which partition, and whose a device is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from localstore.hub.access import Access, Person, private_partition
from localstore.hub.accounts import people
from localstore.hub.accounts.rule import ANSWER_SECONDS
from localstore.hub.accounts.tables import EVERYONE
from tests.postgres_server import PostgresServer, running
from tests.unit import access_rules
from tests.unit.accounts_kit import World, database_url, run

RULES = "tests.unit.access_rules"
EMMA = Person(user_id="e" * 32, email="emma@example.com", expires_at=2e9)
KEVIN = Person(user_id="k" * 32, email="kevin@elsewhere.org", expires_at=2e9)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running("-c fsync=off", "-c full_page_writes=off") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(database_url(request.param, request))
    yield world
    world.close()


def test_on_a_fresh_hub_everybody_who_logged_in_may_write_to_the_default_partition_and_to_no_other(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        assert await accounts.access(EMMA, "default") is Access.WRITE
        assert await accounts.access(EMMA, "team-7") is Access.NONE

    run(story())


def test_what_everybody_may_do_with_the_default_partition_can_be_chosen(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts(default_partition="main", default_access=Access.READ)
        assert await accounts.access(EMMA, "main") is Access.READ
        assert await accounts.access(EMMA, "default") is Access.NONE

    run(story())


def test_a_users_own_grant_goes_before_everyones_and_that_before_the_default(world: World) -> None:
    async def story() -> None:
        world.grant(EVERYONE, "default", Access.READ)
        world.grant(KEVIN.user_id, "default", Access.NONE)
        world.grant(EVERYONE, "team-7", Access.READ)
        world.grant(EMMA.user_id, "team-7", Access.WRITE)
        accounts = world.accounts()
        assert [await accounts.access(who, "default") for who in (EMMA, KEVIN)] == [Access.READ, Access.NONE]
        assert [await accounts.access(who, "team-7") for who in (EMMA, KEVIN)] == [Access.WRITE, Access.READ]

    run(story())


def test_a_grant_that_changes_is_noticed_within_seconds(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        for access in (Access.WRITE, Access.READ, Access.NONE, Access.WRITE):
            world.grant(EMMA.user_id, "team-7", access)
            world.clock.advance(3)
            assert await accounts.access(EMMA, "team-7") is access
        world.grant(EMMA.user_id, "team-7", None)
        world.clock.advance(3)
        assert await accounts.access(EMMA, "team-7") is Access.NONE

    run(story())


@pytest.mark.parametrize("rule", [None, "by_domain"])
def test_a_private_partition_is_its_users_alone_whatever_grants_and_rules_say(world: World, rule: str | None) -> None:
    async def story() -> None:
        accounts = world.accounts(authorize=rule and f"{RULES}:{rule}")
        mine = private_partition(EMMA.user_id)
        world.execute(f"INSERT INTO localstore_accounts_grant VALUES ('{mine}', '{KEVIN.user_id}', 2)")
        world.execute(f"INSERT INTO localstore_accounts_grant VALUES ('{mine}', '{EMMA.user_id}', 0)")
        assert await accounts.access(EMMA, mine) is Access.WRITE
        assert await accounts.access(KEVIN, mine) is Access.NONE

    run(story())


@pytest.mark.parametrize(
    "name",
    [
        "user:",
        f"user:{EMMA.user_id}/../{KEVIN.user_id}",
        f"user:{KEVIN.user_id} ",
        f"user:{KEVIN.user_id}\x00",
        f"USER:{KEVIN.user_id}",
        f"user:{EMMA.user_id.upper()}",
        f"user：{EMMA.user_id}",
        "../default",
        "default/",
        "./default",
        "Default",
        "default\n",
        "default\x00",
        "default\u2028",
        "default\ud800",
        "",
        "x" * 256,
        "x" * 1_000_000,
        "' OR '1'='1",
        "default'; DROP TABLE localstore_accounts_user; --",
    ],
)
def test_a_name_that_only_looks_like_a_partition_one_may_use_opens_nothing(world: World, name: str) -> None:
    async def story() -> None:
        accounts = world.accounts()
        assert await accounts.access(EMMA, name) is Access.NONE
        assert await accounts.access(EMMA, "default") is Access.WRITE

    run(story())


@pytest.mark.parametrize("name", ["user:somebody", "", "a\nb", "x" * 256])
def test_nobody_can_be_given_access_to_what_is_private_or_no_partition(world: World, name: str) -> None:
    with pytest.raises(ValueError, match=r"Nobody else|is no partition"):
        world.grant(EMMA.user_id, name, Access.READ)


@pytest.mark.parametrize("rule", ["by_domain", "by_domain_later"])
def test_a_rule_is_asked_before_grants_and_may_leave_it_to_them(world: World, rule: str) -> None:
    async def story() -> None:
        accounts = world.accounts(authorize=f"{RULES}:{rule}")
        world.grant(KEVIN.user_id, "team-7", Access.WRITE)
        world.grant(KEVIN.user_id, "archive", Access.READ)
        assert await accounts.access(EMMA, "team-7") is Access.READ
        assert await accounts.access(KEVIN, "team-7") is Access.NONE
        assert await accounts.access(KEVIN, "archive") is Access.READ
        assert await accounts.access(KEVIN, "default") is Access.WRITE

    run(story())


def test_a_rule_is_asked_once_in_a_few_seconds(world: World) -> None:
    async def story() -> None:
        access_rules.asked.clear()
        accounts = world.accounts(authorize=f"{RULES}:by_domain")
        for _ in range(5):
            await accounts.access(EMMA, "team-7")
        assert len(access_rules.asked) == 1
        world.clock.advance(3)
        await accounts.access(EMMA, "team-7")
        assert len(access_rules.asked) == 2

    run(story())


@pytest.mark.parametrize("rule", ["fails", "fails_later", "answers_nonsense"])
def test_a_rule_that_fails_lets_nobody_in_and_is_told_in_the_log(
    world: World, rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        assert await world.accounts(authorize=f"{RULES}:{rule}").access(EMMA, "default") is Access.NONE

    with caplog.at_level(logging.ERROR):
        run(story())
    assert "the access rule" in caplog.text


def test_a_rule_that_never_answers_lets_nobody_in(world: World) -> None:
    async def story() -> None:
        access_rules.entered = asyncio.Event()
        asking = asyncio.ensure_future(world.accounts(authorize=f"{RULES}:never_answers").access(EMMA, "default"))
        await access_rules.entered.wait()
        world.clock.advance(ANSWER_SECONDS)
        assert await asking is Access.NONE

    run(story())


@pytest.mark.parametrize(
    "name", ["no_such_module:rule", f"{RULES}:no_such_rule", f"{RULES}:NOT_A_RULE", RULES, "", ":", "a\nb:c"]
)
def test_a_rule_that_is_not_there_is_noticed_when_the_hub_starts(world: World, name: str) -> None:
    with pytest.raises(ValueError, match="rule") as caught:
        world.accounts(authorize=name)
    assert "\n" not in str(caught.value)


def test_a_device_is_whose_it_was_first_in_each_partition(world: World) -> None:
    async def story() -> None:
        accounts, other = world.accounts(), world.accounts()
        device = bytes(range(16))
        assert await accounts.claim_device(EMMA, "default", device)
        for process in (accounts, other):
            for _ in range(2):
                assert await process.claim_device(EMMA, "default", device)
                assert not await process.claim_device(KEVIN, "default", device)
        assert await other.claim_device(KEVIN, "team-7", device)

    run(story())


def test_of_many_who_claim_a_device_at_once_one_gets_it(world: World) -> None:
    async def story() -> None:
        processes = [world.accounts() for _ in range(3)]
        persons = [Person(user_id=str(number), email=None, expires_at=2e9) for number in range(9)]
        claims = [processes[number % 3].claim_device(person, "default", b"d" * 16) for number, person in enumerate(persons)]
        assert sorted(await asyncio.gather(*claims)) == [False] * 8 + [True]

    run(story())


def test_a_device_of_a_user_who_was_removed_stays_out_of_reach(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        assert await accounts.claim_device(EMMA, "default", b"d" * 16)
        world.do(people.remove, EMMA.user_id)
        assert not await world.accounts().claim_device(KEVIN, "default", b"d" * 16)

    run(story())


@pytest.mark.parametrize(
    ("partition", "device"), [("default", b""), ("default", b"d" * 17), ("a\x00b", b"d" * 16), ("", b"d" * 16)]
)
def test_what_cannot_be_a_device_is_nobodys(world: World, partition: str, device: bytes) -> None:
    assert not run(world.accounts().claim_device(EMMA, partition, device))
