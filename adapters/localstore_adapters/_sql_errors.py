"""What a database's error means to a sync session: errors of SQLAlchemy and the drivers, named by what the session must do.

No message of ours holds a password, whatever the driver says.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from localstore.errors import Busy, Offline, ProtocolError, SyncError, Unauthorized
from localstore.urls import HIDDEN, redacted_text
from localstore_adapters._sql_url import Address

__all__ = ["translated"]

_SAFE = "Local data is safe, and what is unsent stays in the outbox."
_NOT_LET_IN = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|permission denied for database"
    r"|role \".*\" does not exist|role \".*\" is not permitted",
    re.IGNORECASE,
)  # what went wrong while connecting has no SQLSTATE
_BUSY_STATES = ("40", "53", "55P03", "57014")  # lost a race, out of connections, waited too long for a lock or an answer
_FULL_STATE = "53100"
_OFFLINE_STATES = ("08", "25006", "25P", "3D000", "3F000", "42P01", "53100", "55000", "57P", "58")
_DENIED_STATES = ("28", "42501")
_LINE_ERRORS = {"OperationalError", "InterfaceError"}  # by name: psycopg is not imported for those who have none
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_BROKEN_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def translated(address: Address) -> Iterator[None]:
    """Errors of the database inside the block come out of it as errors of the contract."""
    try:
        yield
    except exc.TimeoutError as error:  # of the pool
        raise Busy(f"All connections to {address.shown} are in use. {_SAFE}") from error
    except exc.DBAPIError as error:
        cause = error.orig if error.orig is not None else error
        raise _meaning(cause, _told(cause, address), address) from error
    except sqlite3.Error as error:
        raise _meaning(error, _told(error, address), address) from error
    except UnicodeError:  # which quotes the text
        raise ProtocolError(f"A name is no text that {address.shown} could hold. Nothing was read or written.") from None


def _meaning(error: BaseException, told: str, address: Address) -> SyncError:
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error, told, address)
    state = str(getattr(error, "sqlstate", None) or "")
    if state.startswith(_DENIED_STATES) or (not state and _NOT_LET_IN.search(str(error))):
        return Unauthorized(
            f"The database {address.shown} does not let this user in, or do this ({told}). {_SAFE}",
            hint="Correct the user and password in the URL, or grant the user what it needs; then connect again.",
        )
    if state.startswith(_BUSY_STATES) and state != _FULL_STATE:
        return Busy(f"The database {address.shown} is busy ({told}). {_SAFE}")
    is_lost = not state and not _LINE_ERRORS.isdisjoint(kind.__name__ for kind in type(error).__mro__)
    if state.startswith(_OFFLINE_STATES) or is_lost:
        return Offline(f"The database {address.shown} is out of reach ({told}). {_SAFE}")
    return ProtocolError(f"The database {address.shown} did not do what a log needs ({told}). Local data is untouched.")


def _of_sqlite(error: sqlite3.Error, told: str, address: Address) -> SyncError:
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int) and code & 0xFF in _BUSY_CODES:
        return Busy(f"Somebody else is writing to {address.shown} ({told}). {_SAFE}")
    if (isinstance(code, int) and code & 0xFF in _BROKEN_CODES) or not isinstance(error, sqlite3.OperationalError):
        return ProtocolError(f"{address.shown} is no log, or is damaged ({told}). Local data is untouched.")
    return Offline(f"The file {address.shown} is out of reach ({told}). {_SAFE}")


def _told(error: BaseException, address: Address) -> str:
    """What the driver says, in one line and without secrets."""
    text = redacted_text(" ".join(str(error).split()))
    for secret in address.secrets:
        text = text.replace(secret, HIDDEN)
    return text[:300]
