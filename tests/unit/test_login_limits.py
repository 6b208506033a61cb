"""How often one may fail to log in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localstore.adapter import Credentials
from localstore.errors import Busy, RateLimited, Unauthorized
from localstore.hub.accounts.limits import Limit, LogInLimits, Tries, network_of
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.sql_accounts import SqlAccounts
from localstore.hub.commands import _options
from localstore.hub.settings import HubSettings
from localstore.testing.clock import ManualClock
from tests.unit.accounts_kit import ADDRESS, PASSWORD, World, log_in, run


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(f"sqlite:///{tmp_path}/hub.db")
    yield world
    world.close()


async def guess(accounts: SqlAccounts, email: str, address: str = ADDRESS) -> float | None:
    """Seconds to wait; None when the guess was looked at."""
    try:
        await accounts.log_in(Credentials.email_password(email, "guess"), address)
    except Unauthorized:
        return None
    except RateLimited as error:
        return error.retry_after
    raise AssertionError("let in")


def test_guesses_for_one_email_are_limited_from_whatever_addresses_they_come(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts(tries_by_email=Limit(3, 10.0))
        for email in ("emma@example.com", "nobody@example.com"):
            waits = [
                await guess(accounts, email.upper() if number % 2 else email, f"198.51.100.{number}") for number in range(5)
            ]
            assert waits == [None, None, None, 10, 10]
        verified = world.hasher.verified
        await guess(accounts, "emma@example.com")
        assert world.hasher.verified == verified, "no work is done for it"
        world.clock.advance(10)
        assert await guess(accounts, "emma@example.com") is None
        assert await guess(accounts, "emma@example.com") == 10

    world.add_user()
    run(story())


def test_guesses_of_one_address_are_limited_for_whatever_emails_they_are(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts(tries_by_address=Limit(3, 10.0))
        waits = [await guess(accounts, f"{number}@example.com") for number in range(4)]
        waits.append(await guess(accounts, "no email"))
        assert waits == [None, None, None, 10, 10]
        with pytest.raises(RateLimited):
            await accounts.log_in(Credentials.api_key("lsk_guess"), ADDRESS)
        await log_in_from("198.51.100.1", accounts)

    async def log_in_from(address: str, accounts: SqlAccounts) -> None:
        await accounts.log_in(Credentials.email_password("emma@example.com", PASSWORD), address)

    world.add_user()
    run(story())


def test_log_ins_that_succeed_are_not_counted(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts(tries_by_address=Limit(3, 10.0), tries_by_email=Limit(3, 10.0))
        for _ in range(10):
            await log_in(accounts)
        assert [await guess(accounts, "emma@example.com") for _ in range(4)] == [None, None, None, 10]

    world.add_user()
    run(story())


def test_what_the_hub_had_no_time_to_look_at_is_not_counted(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts(tries_by_email=Limit(3, 10.0))
        accounts._passwords._waiting = 1_000
        for _ in range(10):
            with pytest.raises(Busy) as caught:
                await log_in(accounts)
            assert not isinstance(caught.value, RateLimited)

    world.add_user()
    run(story())


def test_tries_come_back_one_by_one() -> None:
    clock = ManualClock()
    tries = Tries(Limit(2, 10.0), clock.monotonic)
    tries.take("a")
    tries.take("a")
    assert (tries.wait("a"), tries.wait("b")) == (10, 0)
    clock.advance(4)
    assert tries.wait("a") == 6
    clock.advance(6)
    assert tries.wait("a") == 0
    tries.take("a")
    assert tries.wait("a") == 10
    tries.give_back("a")
    tries.give_back("nobody")
    assert tries.wait("a") == 0


def test_who_has_all_tries_again_is_forgotten_and_a_flood_of_names_is_bounded() -> None:
    clock = ManualClock()
    tries = Tries(Limit(2, 10.0), clock.monotonic, known_max=100)
    for number in range(1000):
        tries.take(str(number))
    assert len(tries) == 100
    clock.advance(10)
    tries.take("another")
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::2", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix:" + "x" * 1000, "unix:" + "x" * 59),
    ],
)
def test_an_address_counts_for_the_network_that_is_somebodys(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_refusal_says_when_to_come_back() -> None:
    limits = LogInLimits(Limit(1, 5.0), Limit(1, 60.0), ManualClock().monotonic)
    limits.take("192.0.2.7", "emma@example.com")
    with pytest.raises(RateLimited) as caught:
        limits.take("192.0.2.7", "emma@example.com")
    assert caught.value.retry_after == 60


def test_how_many_guesses_there_are_is_a_setting_of_the_hub() -> None:
    options = _options(HubSettings(app="todo", tries_by_address=100, tries_by_email=3))
    assert options.tries_by_address == Limit(100, 2.0)
    assert options.tries_by_email == Limit(3, 15.0)
    assert _options(HubSettings(app="todo")) == AccountsOptions()
