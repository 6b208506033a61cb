"""What one cycle makes of its user's access token: when it takes the newest, and whether a new one may answer an error.

It knows no file and no remote; renewing is the business of ``tokens.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from localstore.errors import SyncError, Unauthorized
from localstore.sync.state import Event
from localstore.sync.tokens import UserTokens

__all__ = ["TokenUse"]


class TokenUse:
    """What one cycle makes of its user's token. Used in the background loop.

    Args:
        tokens: the user's; None where the remote has no users.
        wake: is called when there is a newer one.
    """

    def __init__(self, tokens: UserTokens | None, wake: Callable[[], object]) -> None:
        self._tokens = tokens
        self._wake = wake
        self._taken: str | None = None
        self._has_renewed = False
        self._renewing = False

    def take(self) -> str | None:
        """The token to introduce the device with."""
        self._taken = None if self._tokens is None else self._tokens.access_token
        return self._taken

    def is_outdated(self) -> bool:
        """Whether there is a newer one than was taken. Has it renewed in the background when it is time."""
        if self._tokens is None:
            return False
        if not self._renewing:
            self._renewing = self._tokens.renew_if_due(self._renewal_ended)
        return self._tokens.access_token not in (None, self._taken)

    def worked(self) -> None:
        """The remote took it for all there was to do."""
        self._has_renewed = False

    def at_most(self, seconds: float) -> float:
        """A wait that ends when the token is due for renewal; the end of a renewal wakes by itself."""
        if self._tokens is None or self._renewing:
            return seconds
        return min(seconds, self._tokens.seconds_until_due())

    def can_answer(self, error: SyncError) -> bool:
        """Whether a new token may be the answer to an error."""
        return self._taken is not None and isinstance(error, Unauthorized)

    async def answer_to(self, error: SyncError) -> SyncError | None:
        """What an error comes to: None to connect again at once with a new token, else an error to go on with.

        A token is renewed once for each time that it worked; a remote that refuses the new one as well means the user.
        """
        if self._tokens is None or not self.can_answer(error):
            return error
        if self._tokens.access_token not in (None, self._taken) and not self._tokens.is_stale():
            self._has_renewed = False  # another one by now, as of a log-in, which the remote has not seen here
            return None
        if self._has_renewed:
            return error
        renewal = await self._tokens.renewed(self._taken)
        if renewal.event is not Event.TOKEN_RENEWED:
            return renewal.error
        self._has_renewed = renewal.asked
        return None

    def _renewal_ended(self) -> None:
        self._renewing = False
        self._wake()
