"""Texts that come from outside: which can be an email or a partition at all, and how any text may be shown in a log.

Decisions alone: nothing here knows a database.
"""

from __future__ import annotations

import unicodedata

from localstore.hub.access import PRIVATE

__all__ = ["as_password", "check_email", "check_name", "check_shared_partition", "email_of", "is_partition", "shown"]

EMAIL_MAX = 254
NAME_MAX = 200
PARTITION_MAX = 255
PASSWORD_MAX = 1024
PASSWORD_MIN = 8
_SHOWN_MAX = 100


def email_of(text: str | None) -> str | None:
    """An email as it is stored and looked for, the same however it is written; None for what cannot be one."""
    if text is None or not 0 < len(text) <= EMAIL_MAX:
        return None
    email = unicodedata.normalize("NFKC", text).casefold()
    local, at, host = email.rpartition("@")
    is_one = bool(local and at and host) and email.isprintable() and not any(character.isspace() for character in email)
    return email if is_one and len(email) <= EMAIL_MAX else None


def check_email(text: str) -> str:
    """The same for somebody who adds it.

    Raises:
        ValueError: it cannot be one.
    """
    email = email_of(text)
    if email is None:
        raise ValueError(f"{shown(text)} is no email: it should have an @, no white space, and at most {EMAIL_MAX} characters.")
    return email


def as_password(text: str) -> bytes | None:
    """A password as it is hashed, the same whatever keyboard it was typed on; None for one that is too long or no text."""
    if not 0 < len(text) <= PASSWORD_MAX:
        return None
    try:
        return unicodedata.normalize("NFKC", text).encode()
    except UnicodeEncodeError:
        return None


def is_partition(name: str) -> bool:
    """Whether a partition may be called so. A name is no path: nothing in it means anything but the beginning ``user:``."""
    return 0 < len(name) <= PARTITION_MAX and name.isprintable()


def check_shared_partition(name: str) -> str:
    """A partition that somebody may be given access to.

    Raises:
        ValueError: it cannot be one.
    """
    if not is_partition(name):
        raise ValueError(f"{shown(name)} is no partition: that has 1 to {PARTITION_MAX} printable characters.")
    if name.startswith(PRIVATE):
        raise ValueError(f"{shown(name)} is one user's own. Nobody else can be given access to it, nor can it be taken.")
    return name


def check_name(text: str) -> str:
    """What a user or key is called, for people.

    Raises:
        ValueError: it cannot be shown in a list.
    """
    if not 0 < len(text) <= NAME_MAX or not text.isprintable():
        raise ValueError(f"{shown(text)} is no name: that has 1 to {NAME_MAX} printable characters.")
    return text


def shown(text: str | None) -> str:
    """A text of somebody else's for a log or message: on one line, in plain letters, and not long."""
    if text is None:
        return "-"
    return ascii(text) if len(text) <= _SHOWN_MAX else ascii(text[:_SHOWN_MAX]) + "..."
