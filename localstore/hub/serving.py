"""A hub as a server: uvicorn, with time limits for who sends slowly, and an end that open streams do not hold up."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from localstore.hub.application import Hub
from localstore.hub.settings import HubSettings

__all__ = ["HubServer", "listen"]

_BACKLOG = 2048


class HubServer(uvicorn.Server):
    """Serves one hub in this process.

    Args:
        hub: the application.
        settings: where it listens, and how long it waits.
    """

    def __init__(self, hub: Hub, settings: HubSettings) -> None:
        self._hub = hub
        super().__init__(
            uvicorn.Config(
                hub,
                host=settings.host,
                port=settings.port,
                http=_patient_for(settings.header_timeout),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies or None,
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.private_key,
                limit_concurrency=settings.max_connections,
                backlog=_BACKLOG,
                timeout_keep_alive=max(1, round(settings.keep_alive)),
                timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.end_streams()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, for who wants to know its port before the server runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle's delay on
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # who is told where it is may come before the server runs
    except OSError:
        listener.close()
        raise
    return listener


def _protocol() -> Any:
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:  # there is no wheel of httptools everywhere; h11 does the same, slower
        from uvicorn.protocols.http.h11_impl import H11Protocol

        return H11Protocol
    return HttpToolsProtocol


_PROTOCOL: Any = _protocol()


def _patient_for(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, for which a connection that sends no whole head of a request is idle, and ended soon."""

    class Patient(_PROTOCOL):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._limit: asyncio.TimerHandle | None = None
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _look(self) -> None:
            """Begin to count when no request is being answered; what comes then is the head of the next, or nothing."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._limit is None and not self.transport.is_closing():
                self._limit = self.loop.call_later(seconds, self.transport.abort)

        def _stop(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

    return Patient
