"""The URL of a log in an SQL database, as SQLAlchemy writes it: ``sqlite:///relative``, ``sqlite:////absolute``, ``postgresql://…``."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc

from localstore.urls import redacted, split_url

__all__ = ["Address", "address_of"]


@dataclass(frozen=True)
class Address:
    """Where a database is.

    Attributes:
        url: for SQLAlchemy; its ``repr`` hides the password.
        shown: for messages.
        path: of SQLite's file, None elsewhere.
    """

    url: sa.URL
    shown: str
    path: Path | None

    @property
    def key(self) -> str:
        """What tells one database, as one user, from another. Holds the password."""
        return self.url.render_as_string(hide_password=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be seen in a message."""
        query = [value for name, value in self.url.query.items() if "pass" in name.lower() and isinstance(value, str)]
        return tuple(text for text in (str(self.url.password or ""), *query) if text)


def address_of(url: str) -> Address:
    """Read the URL of a database.

    Raises:
        ValueError: it names none, or has characters that should be percent-encoded.
        ImportError: the driver is not installed; the message has the command.
    """
    parts = split_url(url)
    scheme = parts.scheme.partition("+")[0]
    rest = parts.netloc.rpartition("@")[0] + parts.path + parts.query + parts.fragment
    if scheme == "postgresql" and ("@" in rest or parts.fragment):
        raise ValueError(f"{redacted(url)!r} has a '@', '/', '?' or '#' that belongs to a name or password. Percent-encode it.")
    try:
        parsed = sa.make_url(url)
    except (exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or scheme not in ("sqlite", "postgresql"):
        raise ValueError(
            f"{redacted(url)!r} is no URL of a database. Write it as 'sqlite:///hub.db' or 'postgresql://host/name'."
        )
    return _sqlite(parsed, url) if scheme == "sqlite" else _postgresql(parsed, url)


def _sqlite(parsed: sa.URL, url: str) -> Address:
    database = parsed.database or ""
    if parsed.host or parsed.query or not database or database.startswith((":memory:", "file:")):
        raise ValueError(
            f"{redacted(url)!r} names no file. Write its path after three slashes, as in 'sqlite:///hub.db', or after four when"
            " it is absolute."
        )
    path = Path(database).absolute()
    return Address(sa.URL.create("sqlite", database=str(path)), f"sqlite:///{path}", path)


def _postgresql(parsed: sa.URL, url: str) -> Address:
    if parsed.drivername not in ("postgresql", "postgresql+psycopg"):
        raise ValueError(f"{redacted(url)!r} names a driver that is not psycopg. Write it as 'postgresql://…'.")
    if importlib.util.find_spec("psycopg") is None:
        raise ImportError("A log in PostgreSQL needs psycopg: pip install 'localstore-sync[postgres]'")
    return Address(parsed.set(drivername="postgresql+psycopg"), redacted(url), None)
