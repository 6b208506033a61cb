"""What a user logs in with. A value that knows nothing of who checks it, and never shows its secret by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Credentials", "Provider", "check_credentials"]

Provider = Literal["anonymous", "email_password", "api_key", "jwt"]

_JWT_PARTS = 3  # header, claims, signature


@dataclass(frozen=True)
class Credentials:
    """What a user logs in with. Made by the class methods; adapters read the attributes.

    Attributes:
        provider: how the remote is to check it.
        email: of ``email_password``.
        secret: the password, key or token; never shown in ``repr``.
        reuse_existing: of ``anonymous``: whether an anonymous user who is logged in already is taken.
    """

    provider: Provider
    email: str | None = None
    secret: str | None = field(default=None, repr=False)
    reuse_existing: bool = True

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error may quote."""
        if not self.secret:
            return ()
        return (self.secret,) if self.email is None else (self.secret, f"{self.email}:{self.secret}")

    @classmethod
    def anonymous(cls, *, reuse_existing: bool = True) -> Credentials:
        """No account. A remote without users takes everybody so; one with users makes a user of this device.

        Args:
            reuse_existing: take the anonymous user who is logged in already, if there is one, instead of a new one.
        """
        if not isinstance(reuse_existing, bool):
            raise TypeError(f"reuse_existing is True or False, not {reuse_existing!r}.")
        return cls("anonymous", reuse_existing=reuse_existing)

    @classmethod
    def email_password(cls, email: str, password: str) -> Credentials:
        """An account with a password.

        Raises:
            TypeError, ValueError: one of them is no text, or empty.
        """
        _check_text("email", email)
        if email != email.strip():
            raise ValueError("The email begins or ends with white space.")
        _check_text("password", password)
        return cls("email_password", email, password)

    @classmethod
    def api_key(cls, key: str) -> Credentials:
        """A key that the remote has given out, as for a device without a person.

        Raises:
            TypeError, ValueError: it is no text, empty, or has white space in it, as when a line's end was read with it.
        """
        _check_without_space("api key", key)
        return cls("api_key", secret=key)

    @classmethod
    def jwt(cls, token: str) -> Credentials:
        """A JSON Web Token of a service that the remote trusts.

        Raises:
            TypeError, ValueError: it is no text, empty, or not in three parts with dots between them.
        """
        _check_without_space("jwt", token)
        if len(token.split(".")) != _JWT_PARTS or not all(token.split(".")):
            raise ValueError("The jwt is no signed JSON Web Token: that has three parts with dots between them.")
        return cls("jwt", secret=token)


def check_credentials(given: object) -> None:
    """Refuse what is none. No message quotes what was given: it may be a password."""
    if not isinstance(given, Credentials):
        raise TypeError(f"login takes Credentials, such as Credentials.anonymous(), not of type {type(given).__name__}.")


def _check_text(name: str, value: object) -> None:
    """No message quotes the value: people put passwords in the wrong place."""
    if not isinstance(value, str):
        raise TypeError(f"The {name} is a str, not of type {type(value).__name__}.")
    if not value.strip():
        raise ValueError(f"The {name} must not be empty.")


def _check_without_space(name: str, value: object) -> None:
    _check_text(name, value)
    if isinstance(value, str) and value.split() != [value]:
        raise ValueError(f"The {name} has white space in it, such as the end of the line that it was read from.")
