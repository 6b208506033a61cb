"""What somebody may try to get from accounts who has no right to it."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("argon2", reason="needs the extra hub")


from localstore.adapter import Credentials
from localstore.errors import LocalStoreError, Unauthorized
from localstore.hub.access import Access
from localstore.hub.accounts import grants, people
from localstore.hub.accounts.database import Database
from localstore.hub.accounts.names import PASSWORD_MAX, email_of, shown
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.passwords import Argon2
from localstore.hub.accounts.sql_accounts import SqlAccounts
from localstore.testing.clock import ManualClock, environment
from tests.postgres_server import PostgresServer, running
from tests.unit.accounts_kit import ADDRESS, PASSWORD, World, can_refresh, database_url, is_good, log_in, run

SQL = [
    "' OR '1'='1",
    "'; DROP TABLE localstore_accounts_user; --",
    "' UNION SELECT id, secret FROM localstore_accounts_identity --",
    "%' OR subject LIKE '%",
    'emma@example.com" OR ""="',
    "emma@example.com'--",
    "emma@example.com\x00",
    "$1; SELECT pg_sleep(10)",
    "%(user_id)s",
    ":user_id",
    "?",
    "\\",
]
UGLY = [
    *SQL,
    "",
    " ",
    "\ud800",
    "x" * 1_000_000,
    "\U0001f4a9" * 1000,
    "a\r\nb@example.com",
    "\x1b[2J@example.com",
    "*",
    "\u202e@a",
]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running("-c fsync=off", "-c full_page_writes=off") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(database_url(request.param, request))
    yield world
    world.close()


@pytest.mark.parametrize("text", UGLY, ids=range(len(UGLY)))
def test_no_text_in_place_of_credentials_or_tokens_gets_in_or_breaks_anything(world: World, tmp_path: Path, text: str) -> None:
    async def story() -> None:
        accounts = world.accounts(anonymous=True, issuers=issuers)
        emma = world.add_user()
        for credentials in (
            Credentials("email_password", text, PASSWORD),
            Credentials("email_password", "emma@example.com", text),
            Credentials("email_password", text, text),
            Credentials("email_password", None, None),
            Credentials("api_key", secret=text),
            Credentials("api_key", secret=f"lsk_{text}"),
            Credentials("jwt", secret=text),
            Credentials("jwt", secret=None),
            Credentials(text, secret=text),  # type: ignore[arg-type]
        ):
            with pytest.raises(Unauthorized) as caught:
                await accounts.log_in(credentials, text)
            assert len(text) < 9 or text not in str(caught.value)
        assert not await is_good(accounts, text)
        assert not await can_refresh(accounts, text)
        await accounts.log_out(text)
        assert (await log_in(accounts)).user_id == emma
        with world.database.reading() as connection:
            assert [user.id for user in people.users(connection)] == [emma]

    issuers = tmp_path / "issuers.toml"
    issuers.write_text("issuer = []\n", encoding="utf-8")
    run(story())


@pytest.mark.parametrize("text", UGLY, ids=range(len(UGLY)))
def test_no_text_that_an_administrator_is_talked_into_does_more_than_it_says(world: World, text: str) -> None:
    emma = world.add_user()
    with pytest.raises(ValueError, match="no user"):
        world.do(people.user_named, text)
    with pytest.raises(ValueError, match="no key"):
        world.do(people.revoke_key, text, 0)
    if email_of(text) is None:
        with pytest.raises(ValueError, match="no email"):
            world.add_user(text)
    else:
        world.do(people.remove, world.add_user(text))
    for partition in [text] if 0 < len(text) <= 255 and text.isprintable() else []:
        world.grant(emma, partition, Access.READ)
        assert [grant.partition for grant in world.do(grants.grants)] == [partition]
    with world.database.reading() as connection:
        assert [user.id for user in people.users(connection)] == [emma]


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("emma@example.com", "wrong"),
        ("nobody@example.com", "wrong"),
        ("kevin@example.com", PASSWORD),
        ("no email", PASSWORD),
        (None, PASSWORD),
        ("x" * 1000 + "@example.com", PASSWORD),
    ],
)
def test_a_wrong_password_an_unknown_email_and_somebody_shut_out_take_one_check_each_and_sound_the_same(
    world: World, email: str | None, password: str
) -> None:
    async def story() -> None:
        world.add_user()
        world.do(people.set_disabled, world.add_user("kevin@example.com"), True)
        accounts = world.accounts()
        with pytest.raises(Unauthorized) as caught:
            await accounts.log_in(Credentials("email_password", email, password), ADDRESS)
        assert world.hasher.verified == 1
        assert str(caught.value) == "The hub does not take these credentials. Check them, or ask for an account."

    run(story())


def test_a_password_that_is_too_long_costs_nothing(world: World) -> None:
    async def story() -> None:
        world.add_user()
        with pytest.raises(Unauthorized):
            await log_in(world.accounts(), password="x" * (PASSWORD_MAX + 1))
        assert world.hasher.verified == 0

    run(story())


@pytest.mark.parametrize("email", ["a\r\nINFO forged line@example.com", "\x1b]0;title\x07@example.com", "a\u2028b@example.com"])
def test_nobody_writes_lines_of_their_own_into_the_log(world: World, email: str, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        accounts = world.accounts()
        for address in (ADDRESS, f"{ADDRESS}\nforged", "x" * 10_000):
            for credentials in (Credentials("email_password", email, "wrong"), Credentials(email)):  # type: ignore[arg-type]
                with pytest.raises(Unauthorized):
                    await accounts.log_in(credentials, address)

    with caplog.at_level(logging.DEBUG):
        run(story())
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("localstore")]
    assert len(messages) == 6
    assert all(message.isprintable() and message.isascii() and len(message) < 400 for message in messages)


def test_a_password_typed_into_the_field_for_the_email_is_not_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        with pytest.raises(Unauthorized):
            await world.accounts().log_in(Credentials("email_password", PASSWORD, PASSWORD), ADDRESS)

    with caplog.at_level(logging.DEBUG):
        run(story())
    assert PASSWORD not in caplog.text


def test_no_secret_is_stored_or_logged_or_in_a_repr(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> list[str]:
        world.add_user()
        key = world.add_key()
        accounts = world.accounts()
        one = await log_in(accounts)
        by_key = await accounts.log_in(Credentials.api_key(key), ADDRESS)
        new = await accounts.refresh(one.refresh_token)
        person = await accounts.authenticate(new.access_token)
        assert not await can_refresh(accounts, one.refresh_token)
        shown_somewhere.extend(map(repr, (accounts, one, by_key, new, person, accounts._options)))
        return [PASSWORD, key, *(text for tokens in (one, by_key, new) for text in (tokens.access_token, tokens.refresh_token))]

    shown_somewhere: list[str] = []
    with caplog.at_level(logging.DEBUG):
        secrets = run(story())
    shown_somewhere += [caplog.text, world.everything_stored()]
    for secret in secrets:
        assert not any(secret in text for text in shown_somewhere)


def test_what_a_password_is_kept_as_is_argon2id_with_a_salt() -> None:
    hasher = Argon2()
    kept = hasher.hash(b"hunter2")
    assert kept.startswith("$argon2id$")
    assert hasher.hash(b"hunter2") != kept
    assert hasher.verify(kept, b"hunter2")
    assert not hasher.verify(kept, b"hunter3")
    assert not hasher.verify("damaged", b"hunter2")
    assert not hasher.is_outdated(kept)
    assert hasher.is_outdated("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$" + kept.rpartition("$")[2])


def test_tokens_cannot_be_guessed(world: World) -> None:
    async def story() -> None:
        emma = world.add_user()
        accounts = world.accounts()
        texts = [await log_in(accounts) for _ in range(3)]
        secrets = {text[-64:] for tokens in texts for text in (tokens.access_token, tokens.refresh_token)}
        secrets.add(world.add_key(user_id=emma)[-64:])
        assert len(secrets) == 7
        assert all(re.fullmatch("[0-9a-f]{64}", secret) for secret in secrets), "256 bits"

    run(story())


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_files_of_the_database_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        world = World(f"sqlite:///{tmp_path}/hub.db")
        world.add_user()
    finally:
        os.umask(before)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["hub.db", "hub.db-shm", "hub.db-wal"]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * 3
    world.close()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_database_that_was_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    for name in ("hub.db", "hub.db-wal"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o664)
    world = World(f"sqlite:///{tmp_path}/hub.db")
    assert stat.S_IMODE((tmp_path / "hub.db").stat().st_mode) == 0o600
    world.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:hub.db?mode=memory&password=hunter2",
        "mysql://root:hunter2@host/db",
        "hub.db",
        "",
        "postgres://root:hunter2@[host/db",
        "memory://name",
        "sqlite:////no/such/folder/hub.db",
    ],
)
def test_a_url_that_names_no_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises((ValueError, LocalStoreError)) as caught:
        SqlAccounts.open(url, AccountsOptions(), environment=environment(ManualClock()))
    assert "hunter2" not in str(caught.value)


def test_a_database_cannot_be_named_that_would_be_another_after_each_connection() -> None:
    with pytest.raises(ValueError, match="is no URL"):
        Database("sqlite:///:memory:", environment(ManualClock()))


@pytest.mark.parametrize("text", ["plain", "a\nb", "\x1b[2J", "\u202egpj", "x" * 1_000_000, "\ud800"])
def test_any_text_can_be_shown_on_one_short_line(text: str) -> None:
    assert shown(text).isascii()
    assert shown(text).isprintable()
    assert len(shown(text)) < 1100


@pytest.mark.parametrize(
    "text", ["emma", "@", "a@", "@b", "a b@c", "a\n@b", "a@b\x00", "x" * 250 + "@example.com", "\ufdfa" * 20 + "@b"]
)
def test_what_cannot_be_an_email_is_none(text: str) -> None:
    assert email_of(text) is None or len(email_of(text) or "") <= 254
