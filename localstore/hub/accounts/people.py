"""Users in SQL, what they log in with, and their API keys. Functions of a connection, each in one transaction.

Whoever shuts somebody out here ends the log-ins in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from localstore.hub.accounts import changes, tables
from localstore.hub.accounts.issuers import Verified
from localstore.hub.accounts.log_ins import end_all
from localstore.hub.accounts.names import check_email, check_name, email_of, shown
from localstore.hub.accounts.tokens import digest, new_id, new_key

__all__ = [
    "Key",
    "User",
    "add_anonymous",
    "add_key",
    "add_person",
    "change_password",
    "key_of",
    "keys",
    "of_issuer",
    "password_of",
    "remove",
    "revoke_key",
    "set_disabled",
    "user_named",
    "users",
]

_user, _identity, _key, _grant = tables.user, tables.identity, tables.key, tables.grant
RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody as an administrator sees them.

    Attributes:
        id: what partitions, grants and rules call them.
        email: one that was verified, or is an account's; None for a user without.
        name: for people.
        provider: by what they came to be.
        disabled: whether they are shut out.
        created_ms: since when they are there.
    """

    id: str
    email: str | None
    name: str
    provider: str
    disabled: bool
    created_ms: int


@dataclass(frozen=True, kw_only=True)
class Key:
    """An API key as an administrator sees it; the key itself is nowhere.

    Attributes:
        prefix: the part by which it is known.
        user_id: whom it logs in.
        name: for people.
        created_ms, revoked_ms: since when it is there, and not good any more.
    """

    prefix: str
    user_id: str
    name: str
    created_ms: int
    revoked_ms: int | None


def add_person(connection: sa.Connection, random_bytes: RandomBytes, now_ms: int, *, email: str, password: str) -> str:
    """A user with an email and a password, of which the hash is given.

    Raises:
        ValueError: the email is none, or has an account.
    """
    email = check_email(email)
    user_id = _add(connection, random_bytes, now_ms, provider="email_password", email=email, name=email)
    row = {"provider": "email_password", "issuer": "", "subject": email, "user_id": user_id, "secret": password}
    if not tables.insert_unless_there(connection, _identity, **row):
        raise ValueError(f"{shown(email)} has an account already. Nothing was changed.")
    return user_id


def add_anonymous(connection: sa.Connection, random_bytes: RandomBytes, now_ms: int) -> str:
    """A user of whom nothing is known."""
    return _add(connection, random_bytes, now_ms, provider="anonymous", email=None, name="anonymous")


def of_issuer(connection: sa.Connection, random_bytes: RandomBytes, now_ms: int, verified: Verified) -> str:
    """The user whom an issuer means, who is made at the first time. An email gives no claim to another user's account."""
    condition = sa.and_(
        _identity.c.provider == "jwt", _identity.c.issuer == verified.issuer, _identity.c.subject == verified.subject
    )
    known = connection.execute(sa.select(_identity.c.user_id).where(condition)).scalar()
    if known is not None:
        is_new = sa.and_(_user.c.id == known, _user.c.email.is_distinct_from(verified.email))
        if connection.execute(sa.update(_user).where(is_new).values(email=verified.email)).rowcount:
            changes.tell(connection)
        return str(known)
    user_id = _add(connection, random_bytes, now_ms, provider="jwt", email=verified.email, name=verified.subject[:200])
    row = {"provider": "jwt", "issuer": verified.issuer, "subject": verified.subject, "user_id": user_id}
    if tables.insert_unless_there(connection, _identity, **row):
        return user_id
    connection.execute(sa.delete(_user).where(_user.c.id == user_id))  # another process was quicker
    return str(connection.execute(sa.select(_identity.c.user_id).where(condition)).scalar_one())


def password_of(connection: sa.Connection, email: str) -> tuple[str, str] | None:
    """Id and password hash of the user with an email; None when there is none, or they are shut out."""
    found = connection.execute(
        sa.select(_identity.c.user_id, _identity.c.secret)
        .join_from(_identity, _user, _identity.c.user_id == _user.c.id)
        .where(_identity.c.provider == "email_password", _identity.c.issuer == "", _identity.c.subject == email)
        .where(_user.c.disabled == 0)
    ).first()
    return None if found is None else (found.user_id, found.secret)


def keep_password(connection: sa.Connection, user_id: str, before: str, password: str) -> None:
    """Keep another hash of the same password."""
    mine = sa.and_(_identity.c.provider == "email_password", _identity.c.user_id == user_id, _identity.c.secret == before)
    connection.execute(sa.update(_identity).where(mine).values(secret=password))


def change_password(connection: sa.Connection, user_id: str, password: str) -> None:
    """Another password, of which the hash is given. Ends all log-ins.

    Raises:
        ValueError: the user has none.
    """
    mine = sa.and_(_identity.c.provider == "email_password", _identity.c.user_id == user_id)
    if connection.execute(sa.update(_identity).where(mine).values(secret=password)).rowcount == 0:
        raise ValueError("The user has no password. Nothing was changed.")
    end_all(connection, user_id=user_id)


def user_named(connection: sa.Connection, who: str) -> User:
    """The user with an id or email.

    Raises:
        ValueError: there is none, or more than one.
    """
    email = email_of(who)
    condition = _user.c.id == who if email is None else _user.c.email == email
    found = _users(connection, condition) if who.isprintable() else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"There is no user {shown(who)}. Nothing was changed.")
    raise ValueError(f"{shown(who)} is more than one user: {', '.join(user.id for user in found)}. Name one by its id.")


def users(connection: sa.Connection) -> list[User]:
    """All of them, the oldest first."""
    return _users(connection, sa.true())


def set_disabled(connection: sa.Connection, user_id: str, disabled: bool) -> None:
    """Shut a user out, which ends all their log-ins, or let them in again."""
    connection.execute(sa.update(_user).where(_user.c.id == user_id).values(disabled=int(disabled)))
    if disabled:
        end_all(connection, user_id=user_id)


def remove(connection: sa.Connection, user_id: str) -> None:
    """Forget a user. Their data stays where it is, and their devices are nobody else's."""
    connection.execute(sa.delete(_user).where(_user.c.id == user_id))
    for table in (_identity, _key, _grant):
        connection.execute(sa.delete(table).where(table.c.user_id == user_id))
    end_all(connection, user_id=user_id)


def add_key(connection: sa.Connection, random_bytes: RandomBytes, now_ms: int, *, name: str, user_id: str | None) -> str:
    """A new API key, shown this once; of a user of its own unless one is named.

    Raises:
        ValueError: the name cannot be one.
    """
    check_name(name)
    if user_id is None:
        user_id = _add(connection, random_bytes, now_ms, provider="api_key", email=None, name=name)
    key, prefix = new_key(random_bytes)
    row = {"prefix": prefix, "digest": digest(key), "user_id": user_id, "name": name, "created_ms": now_ms}
    connection.execute(sa.insert(_key).values(**row))
    return key


def key_of(connection: sa.Connection, prefix: str) -> tuple[str, str] | None:
    """User and digest of an API key that was not revoked, by its prefix."""
    condition = sa.and_(_key.c.prefix == prefix, _key.c.revoked_ms.is_(None))
    found = connection.execute(sa.select(_key.c.user_id, _key.c.digest).where(condition)).first()
    return None if found is None else (found.user_id, found.digest)


def keys(connection: sa.Connection) -> list[Key]:
    """All of them, the oldest first."""
    rows = connection.execute(sa.select(_key).order_by(_key.c.created_ms, _key.c.prefix)).mappings()
    return [Key(**{name: row[name] for name in ("prefix", "user_id", "name", "created_ms", "revoked_ms")}) for row in rows]


def revoke_key(connection: sa.Connection, prefix: str, now_ms: int) -> None:
    """A key is not good any more, nor is any log-in by it.

    Raises:
        ValueError: there is no such key.
    """
    since = {"revoked_ms": sa.func.coalesce(_key.c.revoked_ms, now_ms)}
    if (
        not prefix.isprintable()
        or connection.execute(sa.update(_key).where(_key.c.prefix == prefix).values(**since)).rowcount == 0
    ):
        raise ValueError(f"There is no key {shown(prefix)}. Nothing was changed.")
    end_all(connection, key_prefix=prefix)


def _add(
    connection: sa.Connection, random_bytes: RandomBytes, now_ms: int, *, provider: str, email: str | None, name: str
) -> str:
    row = {"id": new_id(random_bytes), "email": email, "name": name, "provider": provider, "disabled": 0, "created_ms": now_ms}
    connection.execute(sa.insert(_user).values(**row))
    return str(row["id"])


def _users(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[User]:
    rows = connection.execute(sa.select(_user).where(condition).order_by(_user.c.created_ms, _user.c.id)).mappings()
    return [
        User(
            id=row["id"],
            email=row["email"],
            name=row["name"],
            provider=row["provider"],
            disabled=bool(row["disabled"]),
            created_ms=row["created_ms"],
        )
        for row in rows
    ]
