"""Checking passwords: slow on purpose, in worker threads, a few at a time, and as slow for an email that nobody has.

How a password is hashed is passed in; nothing here knows users.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from localstore.environment import Environment
from localstore.errors import Busy

__all__ = ["Argon2", "Hasher", "PasswordCheck"]

AT_ONCE = 2
"""How many passwords one process hashes at the same time."""
WAITING_MAX = 50
"""How many more may wait for that; who comes then is told to come back."""


class Hasher(Protocol):
    """How passwords are hashed. Blocks."""

    def hash(self, password: bytes) -> str:
        """What is to be kept."""
        ...

    def verify(self, kept: str, password: bytes) -> bool:
        """Whether it is this password."""
        ...

    def is_outdated(self, kept: str) -> bool:
        """Whether it was hashed with less effort than today's."""
        ...


class Argon2:
    """Argon2id with 19 MiB and two passes, as OWASP asks for: some 25 ms of one core."""

    def __init__(self) -> None:
        try:
            import argon2
        except ImportError as error:
            raise ImportError("The hub needs more packages: pip install 'localstore-sync[hub]'") from error
        self._errors: tuple[type[Exception], ...] = (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError)
        self._hasher: Any = argon2.PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

    def hash(self, password: bytes) -> str:
        return str(self._hasher.hash(password))

    def verify(self, kept: str, password: bytes) -> bool:
        try:
            return bool(self._hasher.verify(kept, password))
        except self._errors:
            return False

    def is_outdated(self, kept: str) -> bool:
        return bool(self._hasher.check_needs_rehash(kept))


class PasswordCheck:
    """Checks passwords for one process."""

    def __init__(self, hasher: Hasher, environment: Environment) -> None:
        self._hasher = hasher
        self._run = environment.run_blocking
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._nobodys = hasher.hash(environment.random_bytes(32))

    async def verify(self, kept: str | None, password: bytes) -> tuple[bool, str | None]:
        """Whether it is this password; None is nobody's, which takes the same time.

        Returns:
            Whether it is, and what to keep from now on, if that is something else.

        Raises:
            Busy: too many are waiting already.
        """
        if self._waiting >= AT_ONCE + WAITING_MAX:
            raise Busy("Too many are logging in at once.", retry_after=1.0)
        self._waiting += 1
        try:
            async with self._turns:
                answer: tuple[bool, str | None] = await self._run(self._verify, kept, password)
                return answer
        finally:
            self._waiting -= 1

    def _verify(self, kept: str | None, password: bytes) -> tuple[bool, str | None]:
        is_it = self._hasher.verify(self._nobodys if kept is None else kept, password) and kept is not None
        is_outdated = is_it and kept is not None and self._hasher.is_outdated(kept)
        return is_it, self._hasher.hash(password) if is_outdated else None
