"""Accounts for tests: on a clock that stands still, with a hash that costs nothing and counts."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import pytest

from localstore.adapter import Credentials, Tokens
from localstore.errors import Unauthorized
from localstore.hub.access import Access
from localstore.hub.accounts import grants, layout, people, tables
from localstore.hub.accounts.database import Database
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.sql_accounts import SqlAccounts
from localstore.testing.clock import ManualClock, environment
from tests.postgres_server import PostgresServer

_T = TypeVar("_T")
_numbers = itertools.count()
ADDRESS = "192.0.2.7"
PASSWORD = "correct horse battery"


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    async def in_time() -> _T:
        return await asyncio.wait_for(coroutine, 60)

    return asyncio.run(in_time())


class CountingHasher:
    """No protection at all. Counts, and what it hashed with less effort can be called outdated."""

    def __init__(self) -> None:
        self.verified = 0
        self.effort = 1

    def hash(self, password: bytes) -> str:
        return f"{self.effort}:{hashlib.sha256(password).hexdigest()}"

    def verify(self, kept: str, password: bytes) -> bool:
        self.verified += 1
        return kept.partition(":")[2] == hashlib.sha256(password).hexdigest()

    def is_outdated(self, kept: str) -> bool:
        return int(kept.partition(":")[0]) < self.effort


def database_url(kind: str, request: pytest.FixtureRequest) -> str:
    """The URL of a fresh database, in a file or on the server of the fixture ``postgres``."""
    if kind == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/hub.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    schema = f"accounts_{next(_numbers)}"  # made faster than a database
    server.execute(f"CREATE SCHEMA {schema}", server.database)
    return f"{server.url(server.database)}&options={quote(f'-c search_path={schema}')}"


@dataclass
class World:
    """A database of accounts, and hub processes on it that share a clock."""

    url: str
    clock: ManualClock = field(default_factory=ManualClock)
    hasher: CountingHasher = field(default_factory=CountingHasher)
    opened: list[SqlAccounts] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seeds = iter(range(1_000_000))
        self.environment = self._environment()
        self.database = Database(self.url, self.environment)
        self.do(layout.check)

    def _environment(self) -> Any:
        return environment(self.clock, seed=next(self._seeds))

    def accounts(self, **options: Any) -> SqlAccounts:
        """Another process."""
        opened = SqlAccounts.open(self.url, AccountsOptions(**options), environment=self._environment(), hasher=self.hasher)
        self.opened.append(opened)
        return opened

    def close(self) -> None:
        for opened in self.opened:
            run(opened.close())
        self.database.close()

    def do(self, function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """What an administrator does, on the database alone."""
        with self.database.writing() as connection:
            return function(connection, *args, **kwargs)

    def execute(self, statement: str) -> None:
        self.do(lambda connection: connection.exec_driver_sql(statement))

    def add_user(self, email: str = "emma@example.com", password: str = PASSWORD) -> str:
        kept = self.hasher.hash(password.encode())
        return self.do(people.add_person, self.environment.random_bytes, self.clock.now_ms(), email=email, password=kept)

    def add_key(self, name: str = "scanner", user_id: str | None = None) -> str:
        return self.do(people.add_key, self.environment.random_bytes, self.clock.now_ms(), name=name, user_id=user_id)

    def grant(self, user_id: str, partition: str, access: Access | None) -> None:
        self.do(grants.grant, user_id, partition, access)

    def everything_stored(self) -> str:
        """All values of all tables, to look for secrets in."""
        with self.database.reading() as connection:
            names = [table.name for table in tables.user.metadata.sorted_tables]
            return repr([connection.exec_driver_sql(f'SELECT * FROM "{name}"').fetchall() for name in names])


async def log_in(accounts: SqlAccounts, email: str = "emma@example.com", password: str = PASSWORD) -> Tokens:
    return await accounts.log_in(Credentials.email_password(email, password), ADDRESS)


async def is_good(accounts: SqlAccounts, access_token: str | None) -> bool:
    try:
        await accounts.authenticate(access_token)
    except Unauthorized:
        return False
    return True


async def can_refresh(accounts: SqlAccounts, refresh_token: str) -> bool:
    try:
        await accounts.refresh(refresh_token)
    except Unauthorized:
        return False
    return True
