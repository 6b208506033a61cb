"""A hub on loopback, as the tests start it: uvicorn in a thread, in front of a log in memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

from localstore.environment import Environment
from localstore.hub.access import Access, Accounts, Person
from localstore.hub.application import create_hub
from localstore.hub.open_accounts import OpenAccounts
from localstore.hub.serving import HubServer, listen
from localstore.hub.settings import HubSettings
from localstore.registry import AdapterFactory
from localstore.testing.memory_snapshots import MemoryRemoteWithSnapshots

__all__ = ["APP", "PATIENCE", "RunningHub", "ShiftedClock", "everybody_writes", "running_hub"]

APP = "conformance"
PATIENCE = 20.0


class RunningHub:
    """A hub that can be stopped and started again at the same address. What it keeps is in the log and the accounts."""

    def __init__(
        self,
        make_log: AdapterFactory,
        *,
        accounts: Callable[[], Accounts] = OpenAccounts,
        environment: Environment | None = None,
        **settings: Any,
    ) -> None:
        self.settings = HubSettings(
            **{"app": APP, "devices_write_snapshots": True, "user_rate": 0, "address_rate": 0, **settings}
        )
        self._accounts = accounts
        self._make_log = make_log
        self._environment = environment or Environment()
        self._port = 0
        self._server: HubServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}{self.settings.path}"

    def start(self) -> None:
        listener = listen("127.0.0.1", self._port)
        self._port = listener.getsockname()[1]
        ready = threading.Event()

        async def started() -> None:
            ready.set()

        async def serve() -> None:
            hub = create_hub(self.settings, make_log=self._make_log, accounts=self._accounts(), environment=self._environment)
            self._server = server = HubServer(hub, self.settings)
            server.config.callback_notify = started
            await server.serve(sockets=[listener])

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="hub", daemon=True)
        self._thread.start()
        assert ready.wait(PATIENCE), "the hub did not start"

    def stop(self) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the hub did not end"
        self._server = self._thread = None


class ShiftedClock:
    """The real time, and some seconds that a test adds at once."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def environment(self) -> Environment:
        real = Environment()
        return Environment(
            now_ms=lambda: real.now_ms() + round(self.seconds * 1000), monotonic=lambda: real.monotonic() + self.seconds
        )


def everybody_writes(user: Person, partition: str) -> Access:
    """The rule of a hub whose users share everything."""
    return Access.WRITE


@contextlib.contextmanager
def running_hub(make_log: AdapterFactory | None = None, **arguments: Any) -> Generator[RunningHub]:
    """A hub for one test; in front of a log in memory unless another is given."""
    hub = RunningHub(make_log or MemoryRemoteWithSnapshots().adapter, **arguments)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()
