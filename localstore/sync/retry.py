"""How long to wait after an error. Tenacity computes the waits; the session's cycle owns the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tenacity import RetryCallState, Retrying, wait_exponential
from tenacity.wait import wait_base

from localstore.errors import Busy, SyncError

__all__ = ["Backoff", "BackoffPolicy"]

_ASKED_SECONDS_MAX = 366 * 86_400.0  # of what a remote asks for, so that nothing overflows


@dataclass(frozen=True, kw_only=True)
class BackoffPolicy:
    """First wait, growth, longest wait (seconds), and the largest part of a wait that is taken off at random."""

    initial: float = 1.0
    factor: float = 2.0
    max: float = 300.0
    jitter: float = 0.25


class _Jittered(wait_base):
    """Another wait, shortened by up to ``jitter`` of itself, so that devices that failed together come back one by one."""

    def __init__(self, inner: wait_base, jitter: float, random: Callable[[], float]) -> None:
        self._inner = inner
        self._jitter = jitter
        self._random = random

    def __call__(self, retry_state: RetryCallState) -> float:
        return self._inner(retry_state) * (1 - self._jitter * self._random())


class Backoff:
    """The waits of one session. Growth starts anew when the kind of error changes, and after ``reset``.

    Args:
        policy: the figures.
        random: a number in [0, 1).
    """

    def __init__(self, policy: BackoffPolicy, random: Callable[[], float]) -> None:
        growing = wait_exponential(multiplier=policy.initial, exp_base=policy.factor, max=policy.max)
        self._wait = _Jittered(growing, policy.jitter, random)
        self._attempts = RetryCallState(Retrying(), None, (), {})
        self.reset()

    def reset(self) -> None:
        """Forget past failures."""
        self._kind: type[SyncError] | None = None
        self._attempts.attempt_number = 0

    def failed(self, error: SyncError) -> float:
        """Note a failure and return how many seconds to wait, at least as long as the remote asked for."""
        if type(error) is not self._kind:
            self.reset()
            self._kind = type(error)
        self._attempts.attempt_number += 1
        asked = error.retry_after if isinstance(error, Busy) else None
        return max(self._wait(self._attempts), min(asked or 0.0, _ASKED_SECONDS_MAX))
