"""Log-ins and their tokens in SQL: begun, renewed, shown, ended. Functions of a connection, each in one transaction.

A refresh token may be shown again until something that it was answered with is used; one from before that ends the log-in,
as somebody has a copy. Whatever changes a log-in holds its row, so that two processes agree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from localstore.adapter import Tokens
from localstore.errors import Unauthorized
from localstore.hub.access import Person
from localstore.hub.accounts import changes, tables
from localstore.hub.accounts.tokens import (
    LogIn,
    RefreshToken,
    Verdict,
    digest,
    judge,
    new_access,
    new_id,
    new_refresh,
)

__all__ = ["Issuance", "Shown", "begin", "end", "end_all", "find", "prune_log_ins", "prune_tokens", "refresh", "take"]

_log = logging.getLogger("localstore.hub.accounts")
_user, _log_in, _token, _key = tables.user, tables.log_in, tables.token, tables.key
_DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Issuance:
    """How tokens are made.

    Attributes:
        random_bytes: where their secrets come from.
        now_ms: the time.
        access_seconds: how long an access token lives.
        log_in_days: how long a log-in lives without being renewed.
    """

    random_bytes: Callable[[int], bytes]
    now_ms: int
    access_seconds: float
    log_in_days: float

    def tokens(self, user_id: str, log_in: str, turn: int) -> Tokens:
        return Tokens(
            user_id=user_id,
            access_token=new_access(self.random_bytes),
            expires_in=self.access_seconds,
            refresh_token=new_refresh(self.random_bytes, log_in, turn),
        )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a good access token stands for.

    Attributes:
        person: whose it is.
        log_in: the log-in that it is of.
        is_first_sight: whether it is of an answer of which nothing was shown yet.
    """

    person: Person
    log_in: str
    is_first_sight: bool


def begin(connection: sa.Connection, issuance: Issuance, user_id: str, key_prefix: str | None) -> Tokens:
    """A new log-in of a user who was checked just now, by an API key where one is named.

    Raises:
        Unauthorized: the user was shut out, or the key revoked, meanwhile.
    """
    if not _is_let_in(connection, user_id, key_prefix):
        raise Unauthorized("shut out meanwhile")
    log_in = new_id(issuance.random_bytes)
    tokens = issuance.tokens(user_id, log_in, 0)
    values = {"id": log_in, "user_id": user_id, "key_prefix": key_prefix, "turn": 0, "seen_ms": issuance.now_ms}
    connection.execute(sa.insert(_log_in).values(**values, refresh=digest(tokens.refresh_token)))
    _keep_access(connection, issuance, log_in, tokens)
    return tokens


def refresh(connection: sa.Connection, issuance: Issuance, shown: RefreshToken) -> Tokens | None:
    """New tokens for a refresh token; None when it is not good. Not an error, as what it changes is to be kept."""
    whose = connection.execute(sa.select(_log_in.c.user_id, _log_in.c.key_prefix).where(_log_in.c.id == shown.log_in)).first()
    if whose is None or not _is_let_in(connection, whose.user_id, whose.key_prefix):
        return None
    row = _held(connection, shown.log_in)
    if row is None or (verdict := judge(shown, _state(row))) is Verdict.VOID:
        return None
    if verdict is Verdict.USED or row["seen_ms"] < issuance.now_ms - issuance.log_in_days * _DAY_MS:
        _log.warning("log-in of user %s ended: its refresh token was %s", row["user_id"], verdict.value)
        _end(connection, _log_in.c.id == shown.log_in)
        changes.tell(connection)
        return None
    turn = row["turn"] + (verdict is Verdict.SUCCESSOR)
    if verdict is Verdict.GOOD and row["next_access"] is not None:  # what it was answered with got lost
        connection.execute(sa.delete(_token).where(_token.c.digest == row["next_access"]))
    tokens = issuance.tokens(row["user_id"], shown.log_in, turn + 1)
    values = {"turn": turn, "refresh": shown.digest, "seen_ms": issuance.now_ms}
    following = {"next_refresh": digest(tokens.refresh_token), "next_access": digest(tokens.access_token)}
    connection.execute(sa.update(_log_in).where(_log_in.c.id == shown.log_in).values(**values, **following))
    _keep_access(connection, issuance, shown.log_in, tokens)
    return tokens


def find(connection: sa.Connection, access: str, now_ms: int) -> Shown | None:
    """What the access token with this digest stands for; None when it is not good, or not any more."""
    found = connection.execute(
        sa.select(_token.c.expires_ms, _log_in.c.id, _log_in.c.next_access, _user.c.id.label("user_id"), _user.c.email)
        .join_from(_token, _log_in, _token.c.log_in == _log_in.c.id)
        .join(_user, _log_in.c.user_id == _user.c.id)
        .where(_token.c.digest == access, _token.c.expires_ms > now_ms, _user.c.disabled == 0)
    ).first()
    if found is None:
        return None
    person = Person(user_id=found.user_id, email=found.email, expires_at=found.expires_ms / 1000)
    return Shown(person=person, log_in=found.id, is_first_sight=found.next_access == access)


def take(connection: sa.Connection, access: str, now_ms: int) -> Person | None:
    """An access token is shown for the first time: the answer that it was in has arrived, and the token before is used up."""
    shown = find(connection, access, now_ms)
    if shown is None:
        return None
    done = connection.execute(
        sa.update(_log_in)
        .where(_log_in.c.id == shown.log_in, _log_in.c.next_access == access)
        .values(turn=_log_in.c.turn + 1, refresh=_log_in.c.next_refresh, next_refresh=None, next_access=None)
    )
    if done.rowcount == 0 and find(connection, access, now_ms) is None:  # another answer has taken its place just now
        return None
    return shown.person


def end(connection: sa.Connection, shown: RefreshToken) -> bool:
    """End the log-in that a refresh token is, or was, of; False when there is none."""
    row = _held(connection, shown.log_in)
    if row is None or judge(shown, _state(row)) is Verdict.VOID:
        return False
    _end(connection, _log_in.c.id == shown.log_in)
    changes.tell(connection)
    return True


def end_all(connection: sa.Connection, *, user_id: str | None = None, key_prefix: str | None = None) -> None:
    """End all log-ins of a user, or by a key. Comes last in its transaction."""
    _end(connection, _log_in.c.user_id == user_id if key_prefix is None else _log_in.c.key_prefix == key_prefix)
    changes.tell(connection)


def prune_tokens(connection: sa.Connection, issuance: Issuance) -> None:
    """Let go of tokens whose time is over, but for those that somebody is at just now."""
    over = sa.select(_token.c.digest).where(_token.c.expires_ms <= issuance.now_ms).with_for_update(skip_locked=True)
    connection.execute(sa.delete(_token).where(_token.c.digest.in_(over)))


def prune_log_ins(connection: sa.Connection, issuance: Issuance) -> None:
    """Let go of log-ins whose time is over."""
    _end(connection, _log_in.c.seen_ms < issuance.now_ms - issuance.log_in_days * _DAY_MS)


def _held(connection: sa.Connection, log_in: str) -> sa.RowMapping | None:
    """A log-in's row, which nobody else changes until the end of the transaction."""
    return connection.execute(sa.select(_log_in).where(_log_in.c.id == log_in).with_for_update()).mappings().first()


def _state(row: sa.RowMapping) -> LogIn:
    return LogIn(turn=row["turn"], refresh=row["refresh"], next_refresh=row["next_refresh"], next_access=row["next_access"])


def _end(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Log-ins are held before tokens, as by everybody: two who wait for each other would both fail."""
    ended = connection.execute(sa.select(_log_in.c.id).where(which).with_for_update()).scalars().all()
    for log_in in ended:
        connection.execute(sa.delete(_token).where(_token.c.log_in == log_in))
        connection.execute(sa.delete(_log_in).where(_log_in.c.id == log_in))


def _keep_access(connection: sa.Connection, issuance: Issuance, log_in: str, tokens: Tokens) -> None:
    expires_ms = issuance.now_ms + int(issuance.access_seconds * 1000)
    connection.execute(sa.insert(_token).values(digest=digest(tokens.access_token), log_in=log_in, expires_ms=expires_ms))


def _is_let_in(connection: sa.Connection, user_id: str, key_prefix: str | None) -> bool:
    """Whether a user is not shut out, nor the key revoked. Both are held until the transaction ends, before any log-in."""
    user = sa.select(_user.c.id).where(_user.c.id == user_id, _user.c.disabled == 0).with_for_update(read=True)
    if connection.execute(user).first() is None:
        return False
    key = sa.select(_key.c.prefix).where(_key.c.prefix == key_prefix, _key.c.revoked_ms.is_(None)).with_for_update(read=True)
    return key_prefix is None or connection.execute(key).first() is not None
