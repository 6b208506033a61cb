"""Logging in at the hub, tokens, and who is let in how long. On SQLite, and the same on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localstore.adapter import Credentials, Tokens
from localstore.errors import Busy, RateLimited, Unauthorized
from localstore.hub.access import Access
from localstore.hub.accounts import log_ins, people
from localstore.hub.accounts.limits import Limit
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.passwords import AT_ONCE, WAITING_MAX, PasswordCheck
from localstore.hub.accounts.sql_accounts import SqlAccounts
from localstore.testing.clock import ManualClock, environment
from tests.postgres_server import PostgresServer, running
from tests.unit.accounts_kit import ADDRESS, PASSWORD, CountingHasher, World, can_refresh, database_url, is_good, log_in, run


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running("-c fsync=off", "-c full_page_writes=off") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(database_url(request.param, request))
    yield world
    world.close()


def test_who_logs_in_gets_tokens_that_say_who_it_is(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        emma = world.add_user("Emma@Example.com")
        tokens = await log_in(accounts, "emma@EXAMPLE.com")
        person = await accounts.authenticate(tokens.access_token)
        assert (tokens.user_id, tokens.expires_in) == (emma, 1800)
        assert (person.user_id, person.email) == (emma, "emma@example.com")
        assert person.expires_at == world.clock.now_ms() / 1000 + 1800

    run(story())


@pytest.mark.parametrize("token", [None, "", "made-up", "null", "lsa_" + "0" * 64, "lsa_" + "é" * 64, "lsa_" + "0" * 64 + "\n"])
def test_without_a_token_of_ours_nobody_is_let_in(world: World, token: str | None) -> None:
    assert not run(is_good(world.accounts(), token))


def test_an_access_token_ends_after_half_an_hour(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        world.add_user()
        tokens = await log_in(accounts)
        world.clock.advance(1799.9)
        assert await is_good(accounts, tokens.access_token)
        world.clock.advance(0.2)
        assert not await is_good(accounts, tokens.access_token)
        assert await can_refresh(accounts, tokens.refresh_token)

    run(story())


def test_a_hub_whose_clock_is_an_hour_off_gives_out_tokens_that_are_good(world: World) -> None:
    async def story() -> None:
        world.add_user()
        for hours in (-1, 1):
            world.clock.set(world.clock.now_ms() + hours * 3_600_000)
            tokens = await log_in(accounts := world.accounts())
            assert await is_good(accounts, tokens.access_token)

    world.accounts()
    run(story())


def test_a_clock_that_is_set_while_tokens_are_out_costs_a_renewal_at_most(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        world.add_user()
        tokens = await log_in(accounts)
        for hours in (1, -2):
            world.clock.set(world.clock.now_ms() + hours * 3_600_000)
            tokens = await accounts.refresh(tokens.refresh_token)
            assert await is_good(accounts, tokens.access_token)

    run(story())


def test_a_refresh_whose_answer_got_lost_can_be_repeated_and_the_lost_answer_is_void(world: World) -> None:
    async def story() -> None:
        accounts, other = world.accounts(), world.accounts()
        world.add_user()
        old = await log_in(accounts)
        lost = await accounts.refresh(old.refresh_token)
        new = await other.refresh(old.refresh_token)
        assert not await is_good(accounts, lost.access_token)
        assert not await can_refresh(accounts, lost.refresh_token)
        assert await is_good(accounts, new.access_token)

    run(story())


@pytest.mark.parametrize("used", ["the refresh token", "the access token"])
def test_a_replayed_refresh_token_ends_the_log_in_in_every_process(world: World, used: str) -> None:
    async def story() -> None:
        accounts, other = world.accounts(), world.accounts()
        world.add_user()
        old = await log_in(accounts)
        new = await accounts.refresh(old.refresh_token)
        if used == "the refresh token":
            new = await accounts.refresh(new.refresh_token)
        assert await is_good(other, new.access_token)
        assert not await can_refresh(other, old.refresh_token), "somebody has a copy"
        world.clock.advance(4)
        for process in (accounts, other):
            assert not await is_good(process, new.access_token)
            assert not await can_refresh(process, new.refresh_token)

    run(story())


def test_a_forged_refresh_token_that_names_a_log_in_does_not_end_it(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        world.add_user()
        tokens = await log_in(accounts)
        for forged in (tokens.refresh_token[:-64] + "0" * 64, tokens.refresh_token.replace("_0_", "_7_")):
            assert not await can_refresh(accounts, forged)
            await accounts.log_out(forged)
        assert await can_refresh(accounts, tokens.refresh_token)

    run(story())


def test_of_many_renewals_at_once_exactly_one_answer_stays_good(world: World) -> None:
    async def story() -> None:
        processes = [world.accounts() for _ in range(3)]
        world.add_user()
        old = await log_in(processes[0])
        answers = await asyncio.gather(*(process.refresh(old.refresh_token) for process in processes * 4))
        good = [answer for answer in answers if await is_good(processes[0], answer.access_token)]
        assert len(good) == 1
        assert await can_refresh(processes[1], good[0].refresh_token)

    run(story())


def test_logging_out_ends_this_log_in_alone_at_once_here_and_within_seconds_elsewhere(world: World) -> None:
    async def story() -> None:
        accounts, other = world.accounts(), world.accounts()
        world.add_user()
        one, another = await log_in(accounts), await log_in(accounts)
        for process in (accounts, other):
            assert await is_good(process, one.access_token)
        await accounts.log_out(one.refresh_token)
        await accounts.log_out(one.refresh_token)
        assert not await is_good(accounts, one.access_token)
        world.clock.advance(3)
        assert not await is_good(other, one.access_token)
        assert not await can_refresh(other, one.refresh_token)
        assert await is_good(other, another.access_token)

    run(story())


def test_a_refresh_token_from_before_logs_out_too(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        world.add_user()
        old = await log_in(accounts)
        new = await accounts.refresh(old.refresh_token)
        assert await is_good(accounts, new.access_token)
        await accounts.log_out(old.refresh_token)
        assert not await is_good(accounts, new.access_token)

    run(story())


def test_a_user_who_is_shut_out_is_out_within_seconds_in_every_process(world: World) -> None:
    async def story() -> None:
        processes = [world.accounts(), world.accounts()]
        emma = world.add_user()
        tokens = await log_in(processes[0])
        assert all([await is_good(process, tokens.access_token) for process in processes])
        world.do(people.set_disabled, emma, True)
        world.clock.advance(3)
        for process in processes:
            assert not await is_good(process, tokens.access_token)
            assert not await can_refresh(process, tokens.refresh_token)
            with pytest.raises(Unauthorized):
                await log_in(process)
        world.do(people.set_disabled, emma, False)
        assert not await can_refresh(processes[0], tokens.refresh_token), "log-ins of before stay ended"
        await log_in(processes[0])

    run(story())


def test_a_user_who_is_marked_as_shut_out_by_hand_is_out_although_a_log_in_is_there(world: World) -> None:
    async def story() -> None:
        world.add_user()
        tokens = await log_in(world.accounts())
        world.execute("UPDATE localstore_accounts_user SET disabled = 1")
        fresh = world.accounts()
        assert not await is_good(fresh, tokens.access_token)
        assert not await can_refresh(fresh, tokens.refresh_token)

    run(story())


def test_a_key_logs_in_until_it_is_revoked_and_then_nothing_of_it_is_good(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        emma = world.add_user()
        key, others = world.add_key(user_id=emma), world.add_key()
        tokens = await accounts.log_in(Credentials.api_key(key), ADDRESS)
        by_password = await log_in(accounts)
        assert tokens.user_id == emma
        assert (await accounts.log_in(Credentials.api_key(others), ADDRESS)).user_id != emma
        world.do(people.revoke_key, key.split("_")[1], world.clock.now_ms())
        world.clock.advance(3)
        with pytest.raises(Unauthorized):
            await accounts.log_in(Credentials.api_key(key), ADDRESS)
        assert not await is_good(accounts, tokens.access_token)
        assert not await can_refresh(accounts, tokens.refresh_token)
        assert await is_good(accounts, by_password.access_token)

    run(story())


def test_a_new_password_ends_the_log_ins_of_the_old_one(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        emma = world.add_user()
        tokens = await log_in(accounts)
        world.do(people.change_password, emma, world.hasher.hash(b"another one"))
        world.clock.advance(3)
        assert not await is_good(accounts, tokens.access_token)
        with pytest.raises(Unauthorized):
            await log_in(accounts)
        await log_in(accounts, password="another one")

    run(story())


def test_a_user_who_was_removed_leaves_nothing_to_log_in_with(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        emma = world.add_user()
        key = world.add_key(user_id=emma)
        tokens = await log_in(accounts)
        world.do(people.remove, emma)
        world.clock.advance(3)
        assert not await is_good(accounts, tokens.access_token)
        for credentials in (Credentials.api_key(key), Credentials.email_password("emma@example.com", PASSWORD)):
            with pytest.raises(Unauthorized):
                await accounts.log_in(credentials, ADDRESS)
        assert world.add_user() != emma

    run(story())


def test_anonymous_users_are_let_in_only_when_that_was_chosen_and_each_is_somebody_else(world: World) -> None:
    async def story() -> None:
        with pytest.raises(Unauthorized):
            await world.accounts().log_in(Credentials.anonymous(), ADDRESS)
        accounts = world.accounts(anonymous=True)
        one, other = [await accounts.log_in(Credentials.anonymous(), ADDRESS) for _ in range(2)]
        assert one.user_id != other.user_id
        assert await can_refresh(accounts, one.refresh_token)

    run(story())


def test_making_anonymous_users_is_bounded_by_address(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts(anonymous=True, tries_by_address=Limit(5, 10.0))
        for _ in range(5):
            await accounts.log_in(Credentials.anonymous(), ADDRESS)
        with pytest.raises(RateLimited) as caught:
            await accounts.log_in(Credentials.anonymous(), ADDRESS)
        assert caught.value.retry_after == 10

    run(story())


def test_a_log_in_that_nobody_renews_ends_after_its_days_and_is_let_go(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts(log_in_days=90)
        world.add_user()
        kept, left = await log_in(accounts), await log_in(accounts)
        world.clock.advance(60 * 86_400)
        kept = await accounts.refresh(kept.refresh_token)
        world.clock.advance(31 * 86_400)
        assert not await can_refresh(accounts, left.refresh_token)
        assert await can_refresh(accounts, kept.refresh_token)
        world.clock.advance(91 * 86_400)
        await log_in(accounts)
        assert world.everything_stored().count(world.hasher.hash(PASSWORD.encode())) == 1
        with world.database.reading() as connection:
            counts = [
                connection.exec_driver_sql(f"SELECT count(*) FROM localstore_accounts_{name}").scalar()
                for name in ("log_in", "token")
            ]
        assert counts == [1, 1]

    run(story())


def test_passwords_that_were_hashed_with_less_effort_are_hashed_anew_at_the_next_log_in(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        world.add_user()
        world.hasher.effort = 2
        await log_in(accounts)
        assert world.hasher.hash(PASSWORD.encode()) in world.everything_stored()
        await log_in(accounts)

    run(story())


def test_a_password_is_the_same_however_it_was_typed(world: World) -> None:
    async def story() -> None:
        world.add_user(password="Grüße an alle")
        await log_in(world.accounts(), password="Gru\u0308ße an alle")

    run(story())


def test_somebody_who_is_shut_out_while_their_password_is_checked_gets_no_tokens(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        emma = world.add_user()
        verify = world.hasher.verify

        class Slow(CountingHasher):
            def verify(self, kept: str, password: bytes) -> bool:
                world.do(people.set_disabled, emma, True)
                return verify(kept, password)

        accounts = world.accounts()
        accounts._passwords = PasswordCheck(Slow(), world.environment)
        with pytest.raises(Unauthorized):
            await log_in(accounts)

    run(story())


def test_a_flood_of_log_ins_is_checked_a_few_at_a_time_and_the_rest_is_told_to_come_back() -> None:
    most = running = 0

    class Watched(CountingHasher):
        def verify(self, kept: str, password: bytes) -> bool:
            nonlocal most, running
            running += 1
            most = max(most, running)
            running -= 1
            return super().verify(kept, password)

    async def story() -> None:
        hasher = Watched()
        check = PasswordCheck(hasher, environment(ManualClock()))
        answers = await asyncio.gather(*(check.verify(None, b"guess") for _ in range(500)), return_exceptions=True)
        busy = [answer for answer in answers if isinstance(answer, Busy)]
        assert len(busy) == 500 - AT_ONCE - WAITING_MAX
        assert all(error.retry_after == 1 for error in busy)
        assert 0 < most <= AT_ONCE
        assert await check.verify(hasher.hash(b"right"), b"right") == (True, None), "it recovers"

    run(story())


def test_a_database_that_does_not_answer_is_busy_and_not_unready_for_ever(world: World) -> None:
    async def story() -> None:
        accounts = world.accounts()
        await accounts.ready()
        world.do(lambda connection: connection.exec_driver_sql("UPDATE localstore_accounts_version SET version_num = 'newer'"))
        with pytest.raises(Busy):
            await accounts.ready()
        world.do(
            lambda connection: connection.exec_driver_sql(
                "UPDATE localstore_accounts_version SET version_num = 'accounts_0001'"
            )
        )
        await accounts.ready()
        await accounts.close()
        await accounts.close()

    run(story())


def test_devices_that_are_there_and_do_nothing_cost_one_look_at_the_database_in_a_while(world: World) -> None:
    async def story() -> None:
        looks = 0

        async def counted(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            nonlocal looks
            looks += 1
            return await asyncio.to_thread(function, *args, **kwargs)

        watched = dataclasses.replace(world.environment, run_blocking=counted)
        accounts = SqlAccounts.open(world.url, AccountsOptions(), environment=watched, hasher=world.hasher)
        world.opened.append(accounts)
        world.add_user()
        tokens = [await log_in(accounts) for _ in range(20)]

        async def heartbeat(token: str) -> Access:
            return await accounts.access(await accounts.authenticate(token), "default")

        for _ in range(10):
            beats = await asyncio.gather(*(heartbeat(one.access_token) for one in tokens))
            assert set(beats) == {Access.WRITE}
            before, looks = looks, 0
            world.clock.advance(20)
        assert before == 1

    run(story())


@pytest.mark.slow
def test_whatever_is_done_to_log_ins_at_once_nobody_waits_for_each_other_for_ever(world: World) -> None:
    async def story() -> None:
        processes = [world.accounts(log_in_days=1) for _ in range(3)]
        emma, key = world.add_user(), world.add_key()
        source = random.Random(7)
        tokens = [await log_in(processes[0]) for _ in range(20)]
        seen: list[BaseException] = []

        async def act(number: int) -> None:
            process, mine = processes[number % 3], source.choice(tokens)
            await source.choice(
                [
                    lambda: process.refresh(mine.refresh_token),
                    lambda: process.refresh(mine.refresh_token),
                    lambda: process.authenticate(mine.access_token),
                    lambda: process.log_out(mine.refresh_token),
                    lambda: log_in(process),
                    lambda: process.log_in(Credentials.api_key(key), ADDRESS),
                    lambda: world.database.write(people.set_disabled, emma, source.random() < 0.3),
                    lambda: world.database.write(log_ins.prune_tokens, process._issuance()),
                    lambda: world.database.write(log_ins.prune_log_ins, process._issuance()),
                ]
            )()

        for begin in range(0, 600, 60):
            answers = await asyncio.gather(*(act(number) for number in range(begin, begin + 60)), return_exceptions=True)
            seen += [answer for answer in answers if isinstance(answer, BaseException)]
            tokens += [answer for answer in answers if isinstance(answer, Tokens)]
            world.clock.advance(600)
        assert {type(error) for error in seen} <= {Unauthorized, RateLimited}

    run(story())


@pytest.mark.slow
def test_a_database_server_that_was_away_is_asked_again_when_it_is_back(postgres: PostgresServer) -> None:
    async def story() -> None:
        accounts = world.accounts()
        world.add_user()
        tokens = await log_in(accounts)
        assert await is_good(accounts, tokens.access_token)
        postgres.stop()
        try:
            world.clock.advance(3)
            for call in (accounts.authenticate(tokens.access_token), accounts.refresh(tokens.refresh_token), accounts.ready()):
                with pytest.raises(Busy) as caught:
                    await call
                assert caught.value.retry_after == 1
        finally:
            postgres.start()
        assert await is_good(accounts, tokens.access_token)
        await accounts.ready()

    schema = "away"
    postgres.execute(f"CREATE SCHEMA {schema}", postgres.database)
    world = World(f"{postgres.url(postgres.database)}&options=-c%20search_path%3D{schema}")
    run(story())
    world.close()
