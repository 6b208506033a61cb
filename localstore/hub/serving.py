"""A hub as a server: uvicorn, with time limits for who sends slowly, and an end that open streams do not hold up."""

from __future__ import annotations

import asyncio
import os
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
        password = settings.private_key_password
        limits = {"head_seconds": settings.header_timeout, "answer_seconds": settings.body_timeout}
        super().__init__(
            uvicorn.Config(
                hub,
                host=settings.host,
                port=settings.port,
                http=type("Patient", (_Patient,), limits),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=settings.trusted_proxies or None,
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.private_key,
                ssl_keyfile_password=None if password is None else password.get_secret_value(),
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
        if os.name != "nt":  # where it would let others listen there too
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # from now on nobody is turned away, though they wait until it serves
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


class _Patient(_PROTOCOL):  # type: ignore[misc]
    """uvicorn's protocol, which ends a connection that sends no whole head of a request, or does not take its answer."""

    head_seconds: float
    answer_seconds: float

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._limit: asyncio.TimerHandle | None = None
        self._full: asyncio.TimerHandle | None = None
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._emptied()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._full = self._full or self.loop.call_later(self.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._emptied()
        super().resume_writing()

    def _emptied(self) -> None:
        if self._full is not None:
            self._full.cancel()
            self._full = None

    def _look(self) -> None:
        """Begin to count when no request is being answered; what comes then is the head of the next, or nothing."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._limit is None and not self.transport.is_closing():
            self._limit = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
