"""What tests of several folders share: a PostgreSQL server, started when the first of them asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres_server import PostgresServer, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running("-c fsync=off", "-c full_page_writes=off") as server:  # what is tested is killed, not unplugged
        yield server
