"""What tests of several folders share: a place for their files, and a PostgreSQL server that the first who needs it starts."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.postgres_server import PostgresServer, running

MEMORY = "/dev/shm"
ROOM = 8 * 1024**3  # several times what a run leaves behind


def pytest_configure() -> None:
    """Keep files in memory where there is room: what is tested is killed, not unplugged, so nothing need reach a disk.

    Workers and programs that tests start do the same.
    """
    if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ["TMPDIR"] = MEMORY
        tempfile.tempdir = None  # asked again


def pytest_collection_finish() -> None:
    """Let no later collection of garbage go through the tests themselves, hundreds of thousands of objects."""
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with running("-c fsync=off", "-c full_page_writes=off") as server:  # what is tested is killed, not unplugged
        yield server
