"""How long a user's tokens are good, by this device's clock. Pure: knows neither the file that keeps them nor who renews."""

from __future__ import annotations

import enum
import math

from localstore.adapter import Tokens
from localstore.errors import ProtocolError
from localstore.token_file import KeptTokens

__all__ = ["LOCAL_TOKENS", "Freshness", "freshness", "kept", "seconds_until_due"]

_DUE_AT = 0.8  # of its life a token is renewed, so that there is time to try again
_LIFE_SECONDS_MAX = 100 * 366 * 86_400  # so that nothing overflows

LOCAL_TOKENS = KeptTokens(access_token="", refresh_token="", issued_ms=0, expires_ms=2**62)
"""What the one user of a remote without users holds while logged in: nothing that is shown, and no end to it."""


class Freshness(enum.Enum):
    """How far an access token's life has gone."""

    FRESH = enum.auto()
    DUE = enum.auto()
    """Good, and to be renewed in the background."""
    STALE = enum.auto()
    """Not good any more, as far as this device's clock can tell."""


def freshness(tokens: KeptTokens, now_ms: int) -> Freshness:
    """What is to be done about a token. A clock that was set back to before it was issued tells nothing: it is renewed."""
    if now_ms >= tokens.expires_ms:
        return Freshness.STALE
    if seconds_until_due(tokens, now_ms) <= 0 or now_ms < tokens.issued_ms:
        return Freshness.DUE
    return Freshness.FRESH


def seconds_until_due(tokens: KeptTokens, now_ms: int) -> float:
    """How long until a token should be renewed ahead of time; not above 0 when it should be now."""
    due_ms = tokens.issued_ms + _DUE_AT * (tokens.expires_ms - tokens.issued_ms)
    return (due_ms - now_ms) / 1000


def kept(tokens: Tokens, now_ms: int) -> KeptTokens:
    """A remote's answer by this device's clock.

    Raises:
        ProtocolError: it makes no sense. Does not say what it is.
    """
    if not isinstance(tokens, Tokens):
        raise ProtocolError(f"The adapter's answer does not fit: it is a {type(tokens).__name__}.", hint="Report this.")
    texts = (tokens.user_id, tokens.access_token, tokens.refresh_token)
    seconds = tokens.expires_in
    if not all(isinstance(text, str) and text and text.isprintable() for text in texts):
        raise ProtocolError(
            "The adapter's answer does not fit: a user id or token in it is empty or no text.", hint="Report this."
        )
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ProtocolError("The adapter's answer does not fit: its token lives no time.", hint="Report this.")
    life_ms = int(min(seconds, _LIFE_SECONDS_MAX) * 1000)
    return KeptTokens(
        access_token=tokens.access_token, refresh_token=tokens.refresh_token, issued_ms=now_ms, expires_ms=now_ms + life_ms
    )
