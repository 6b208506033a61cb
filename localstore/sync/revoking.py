"""Telling the remote of log-ins that are over on this device. Nobody waits for it but an app that is being closed."""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import Future

from localstore.environment import Environment, SessionLoop
from localstore.registry import AdapterFactory
from localstore.sync.calls import Calls, ask_remote
from localstore.token_file import KeptTokens

__all__ = ["Revoking"]

_CLOSE_SECONDS = 2.0  # how long closing an app waits for the remote to hear of users who logged out just before


class Revoking:
    """What is still to be told.

    Args:
        calls: where it runs.
        loop: the same.
        make_adapter: a line to the remote.
        environment: the world.
        seconds: how long one may take.
    """

    def __init__(
        self, calls: Calls, loop: SessionLoop, make_adapter: AdapterFactory, environment: Environment, seconds: float
    ) -> None:
        self._calls = calls
        self._loop = loop
        self._make_adapter = make_adapter
        self._environment = environment
        self._seconds = seconds
        self._pending: set[Future[None]] = set()

    def leave_to_parent(self, calls: Calls) -> None:
        """In a forked child: what is under way is the parent's."""
        self._calls = calls
        self._pending = set()

    def begin(self, tokens: KeptTokens) -> None:
        """Have the remote forget a log-in, if it can be reached: on this device nobody can use it any more."""

        async def revoke() -> None:
            await ask_remote(
                self._make_adapter,
                lambda adapter: adapter.log_out(tokens.refresh_token),
                loop=self._loop,
                environment=self._environment,
                seconds=self._seconds,
                secrets=(tokens.refresh_token, tokens.access_token),
            )

        future = self._calls.start(revoke)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

    def wait(self) -> None:
        """Give the remote a moment to hear of it."""
        if self._pending:
            concurrent.futures.wait(set(self._pending), timeout=_CLOSE_SECONDS)
