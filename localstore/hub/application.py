"""A hub as an ASGI application: its parts put together, and its paths."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from localstore.directories import data_directory
from localstore.environment import Environment
from localstore.http_messages import Problem
from localstore.hub import routes_events, routes_health, routes_snapshots, routes_sync, routes_users
from localstore.hub.access import Accounts
from localstore.hub.asking import Asked, declined, endpoint
from localstore.hub.declining import Declined
from localstore.hub.events import Events
from localstore.hub.lines import Lines
from localstore.hub.merged_files import MergedFiles
from localstore.hub.metrics import Metrics
from localstore.hub.models import load_tables
from localstore.hub.parts import HubParts
from localstore.hub.rates import Rates, Shares
from localstore.hub.settings import HubSettings
from localstore.hub.snapshot_maker import SnapshotMaker
from localstore.registry import AdapterFactory
from localstore.registry import Lines as Factory

__all__ = ["Handler", "Hub", "create_hub"]

Handler = Callable[[Asked], Awaitable[Response]]
_WORLD = Environment()

_CALLS: dict[str, tuple[str, Handler]] = {
    "/v1/login": ("POST", routes_users.login),
    "/v1/refresh": ("POST", routes_users.refresh),
    "/v1/logout": ("POST", routes_users.logout),
    "/v1/connect": ("POST", routes_sync.connect),
    "/v1/push": ("POST", routes_sync.push),
    "/v1/pull": ("POST", routes_sync.pull),
    "/v1/ping": ("POST", routes_sync.ping),
    "/v1/events": ("GET", routes_events.events),
    "/v1/poll": ("POST", routes_events.poll),
    "/v1/snapshot": ("GET", routes_snapshots.latest),
    "/v1/openapi.json": ("GET", routes_health.openapi),
    "/health": ("GET", routes_health.health),
    "/ready": ("GET", routes_health.ready),
    "/metrics": ("GET", routes_health.metrics),
}
_MORE: list[tuple[str, str, Handler]] = [
    ("/v1/snapshot", "POST", routes_snapshots.write),
    ("/v1/trim", "POST", routes_snapshots.trim),
    ("/v1/snapshot/{name:path}", "GET", routes_snapshots.read),
]


class Hub(Starlette):
    """The application.

    Attributes:
        parts: what its endpoints share.
    """

    def __init__(self, parts: HubParts) -> None:
        self.parts = parts
        calls = [(path, method, handle) for path, (method, handle) in _CALLS.items()] + _MORE
        prefix = parts.settings.path
        routes = [
            Route(prefix + path, endpoint(parts, handle.__name__, handle), methods=[method]) for path, method, handle in calls
        ]
        for route in routes:
            if route.path.startswith(f"{prefix}/v1/") and route.methods is not None:
                route.methods.discard("HEAD")  # Starlette's gift: all the work of an answer, which nobody gets
        super().__init__(routes=routes, lifespan=_lifespan)
        self.router.redirect_slashes = False
        self.add_exception_handler(404, self._unknown)
        self.add_exception_handler(405, self._unknown)

    def end_streams(self) -> None:
        """The process is to end: open streams and polls do now."""
        self.parts.events.end_all()

    async def aclose(self) -> None:
        """Let go of the log and the accounts."""
        await self.parts.events.close()
        await self.parts.lines.close()
        await self.parts.accounts.close()

    async def _unknown(self, request: Request, _: Exception) -> Response:
        problem = Problem(kind="not_found", message="There is nothing to ask for here.")
        return declined(Asked(self.parts, request), Declined(problem))


@contextlib.asynccontextmanager
async def _lifespan(hub: Starlette) -> AsyncIterator[None]:
    assert isinstance(hub, Hub)
    making = asyncio.ensure_future(hub.parts.snapshots.run())
    try:
        yield
    finally:
        making.cancel()
        await asyncio.wait([making])
        await hub.aclose()


def create_hub(
    settings: HubSettings, *, make_log: AdapterFactory, accounts: Accounts, environment: Environment = _WORLD
) -> Hub:
    """A hub as an ASGI application, for any server that speaks it. Nothing in it outlives a restart.

    Args:
        settings: how it is set up.
        make_log: a new line to the log, as ``localstore.registry.adapter_factory(url)`` gives one.
        accounts: who is who and may do what.
        environment: time, randomness and sleep.

    Raises:
        ValueError: the models that the settings name cannot be used.
    """
    factory = Factory(make_log)
    lines = Lines(factory, settings.app, max_lines=settings.max_lines, max_calls=settings.max_calls, environment=environment)
    events = Events(lines, environment)
    metrics = Metrics()
    metrics.observe("listeners", "Devices that wait for news.", lambda: float(events.listener_count))
    snapshots = SnapshotMaker(
        lines,
        every=settings.snapshot_every,
        horizon_days=settings.horizon_days,
        keeps_snapshots=factory.capabilities.snapshots,
        files=_merged_files(settings, environment),
        environment=environment,
        metrics=metrics,
    )
    metrics.observe("lines", "Lines to the log that are kept.", lambda: float(len(lines)))
    return Hub(
        HubParts(
            settings=settings,
            environment=environment,
            accounts=accounts,
            capabilities=factory.capabilities,
            lines=lines,
            events=events,
            users=Rates(settings.user_rate, settings.user_burst, environment.monotonic),
            addresses=Rates(settings.address_rate, settings.address_burst, environment.monotonic),
            waiting=Shares(settings.user_streams),
            metrics=metrics,
            snapshots=snapshots,
        )
    )


def _merged_files(settings: HubSettings, environment: Environment) -> MergedFiles | None:
    """Where the hub merges partitions, if it knows what their tables are."""
    if settings.models is None:
        return None
    return MergedFiles(
        settings.snapshot_files or _own_directory(settings),
        load_tables(settings.models),
        app=settings.app,
        offline_days=settings.horizon_days,
        environment=environment,
    )


def _own_directory(settings: HubSettings) -> Path:
    """Where files of this hub lie unless that is set. The name tells logs apart, and shows no password."""
    url = "" if settings.store is None else settings.store.get_secret_value()
    try:
        directory = data_directory(None, os.environ) / "hub"
    except ValueError:
        raise ValueError("This user has no home directory. Set LOCALSTORE_HUB_SNAPSHOT_FILES to a directory.") from None
    return directory / hashlib.sha256(f"{Path.cwd()}\n{url}".encode()).hexdigest()[:32]
