"""A hub whose clock is wrong: ``localstore hub serve`` but for the time, which is so many seconds from the real as it is told.

``later SECONDS`` on standard input puts its clocks forward while it runs.
"""

from __future__ import annotations

import asyncio
import sys
import threading

from localstore.environment import Environment
from localstore.hub.accounts.options import AccountsOptions
from localstore.hub.accounts.sql_accounts import SqlAccounts
from localstore.hub.application import create_hub
from localstore.hub.serving import HubServer, listen
from localstore.hub.settings import HubSettings
from localstore_adapters.sql import SqlAdapter, SqlStore
from tests.integration.fault_kit import APP


class Clock:
    """The real time, and so many seconds more."""

    def __init__(self, seconds: float) -> None:
        self._ahead = seconds  # of the wall clock
        self._later = 0.0  # of both
        self._real = Environment()

    def environment(self) -> Environment:
        return Environment(
            now_ms=lambda: self._real.now_ms() + round((self._ahead + self._later) * 1000),
            monotonic=lambda: self._real.monotonic() + self._later,
        )

    def listen(self) -> None:
        for line in sys.stdin:
            self._later += float(line.split()[1])
            say("done", line.strip())


def say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def main() -> None:
    clock = Clock(float(sys.argv[1]))
    world, settings = clock.environment(), HubSettings(app=APP)
    assert settings.store is not None
    url = settings.store.get_secret_value()
    log = SqlStore(url, environment=world)
    accounts = SqlAccounts.open(url, AccountsOptions(access_seconds=settings.access_seconds), environment=world)
    hub = create_hub(settings, make_log=lambda: SqlAdapter(log), accounts=accounts, environment=world)
    listener = listen(settings.host, settings.port)
    say("Serving")
    threading.Thread(target=clock.listen, daemon=True).start()
    asyncio.run(HubServer(hub, settings).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
