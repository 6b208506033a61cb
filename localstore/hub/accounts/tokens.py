"""What tokens and keys look like, and what a refresh token that is shown means. Decisions alone.

All are random and mean nothing by themselves: what they stand for is looked up, so that ending a log-in is deleting a row,
which every process sees. A refresh token also names its log-in and its turn: one from before is known without being kept.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "LogIn",
    "RefreshToken",
    "Verdict",
    "access_digest",
    "digest",
    "judge",
    "key_prefix",
    "new_access",
    "new_id",
    "new_key",
    "new_refresh",
]

_ACCESS = re.compile(r"lsa_[0-9a-f]{64}")
_REFRESH = re.compile(r"lsr_([0-9a-f]{32})_([0-9]{1,9})_[0-9a-f]{64}")
_KEY = re.compile(r"lsk_([0-9a-f]{12})_[0-9a-f]{64}")
_SECRET_BYTES = 32
_LOG_IN_BYTES = 16
_PREFIX_BYTES = 6
RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True)
class RefreshToken:
    """A refresh token that may be one of ours.

    Attributes:
        log_in: which log-in it is of.
        turn: how many were used before it.
        digest: by which it is compared.
    """

    log_in: str
    turn: int
    digest: str

    @classmethod
    def read(cls, text: str | None) -> RefreshToken | None:
        """None for what cannot be one."""
        found = _REFRESH.fullmatch(text) if text else None
        return None if found is None or text is None else cls(found[1], int(found[2]), digest(text))


@dataclass(frozen=True, kw_only=True)
class LogIn:
    """Where a log-in stands.

    Attributes:
        turn, refresh: number and digest of the refresh token that is good.
        next_refresh, next_access: digests of what it was answered with, as long as nobody has shown any of it.
    """

    turn: int
    refresh: str
    next_refresh: str | None
    next_access: str | None


class Verdict(enum.Enum):
    """What a refresh token is to its log-in."""

    GOOD = "good"
    SUCCESSOR = "successor"
    """The answer has arrived: from now on this one is the good one."""
    USED = "used"
    """Its successor was used, so somebody has a copy, and nobody knows who: the log-in ends."""
    VOID = "void"
    """Forged, or from an answer that was void before it was used."""


def judge(shown: RefreshToken, log_in: LogIn) -> Verdict:
    """What a refresh token is to the log-in that it names."""
    if hmac.compare_digest(shown.digest, log_in.refresh):
        return Verdict.GOOD
    if log_in.next_refresh is not None and hmac.compare_digest(shown.digest, log_in.next_refresh):
        return Verdict.SUCCESSOR
    return Verdict.USED if shown.turn < log_in.turn else Verdict.VOID


def digest(text: str) -> str:
    """What is kept of a token or key. They are random and long, so that a plain hash is enough."""
    return hashlib.sha256(text.encode()).hexdigest()


def access_digest(text: str | None) -> str | None:
    """The digest of an access token, None for what cannot be one."""
    return digest(text) if text and _ACCESS.fullmatch(text) else None


def new_access(random_bytes: RandomBytes) -> str:
    """A fresh access token."""
    return f"lsa_{random_bytes(_SECRET_BYTES).hex()}"


def new_refresh(random_bytes: RandomBytes, log_in: str, turn: int) -> str:
    """A fresh refresh token."""
    return f"lsr_{log_in}_{turn}_{random_bytes(_SECRET_BYTES).hex()}"


def new_id(random_bytes: RandomBytes) -> str:
    """A fresh id of a user or log-in."""
    return random_bytes(_LOG_IN_BYTES).hex()


def new_key(random_bytes: RandomBytes) -> tuple[str, str]:
    """A fresh API key, and the part of it by which it is found."""
    prefix = random_bytes(_PREFIX_BYTES).hex()
    return f"lsk_{prefix}_{random_bytes(_SECRET_BYTES).hex()}", prefix


def key_prefix(text: str | None) -> str | None:
    """By what an API key is found, None for what cannot be one."""
    found = _KEY.fullmatch(text) if text else None
    return found[1] if found else None
