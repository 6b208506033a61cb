"""JSON Web Tokens of services that the hub trusts: which service, which key, and whether what a token says holds now.

A key says by its own kind which algorithms it is for; the token has no say in it, so that neither ``none`` nor a public key as
a secret gets anybody in. The clock is passed in. Nothing here knows users.
"""

from __future__ import annotations

import logging
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localstore.hub.accounts.names import email_of, shown
from localstore.hub.accounts.verifying_keys import VerifyingKey, keys_of_jwks, keys_of_pem, keys_of_secret

__all__ = ["Issuer", "NotTrustedError", "Verified", "read_issuers", "times_hold", "verify"]

LEEWAY_SECONDS = 60.0
_TOKEN_MAX = 16 * 1024
_SUBJECT_MAX = 255
_KINDS: Mapping[str, Callable[[bytes], tuple[VerifyingKey, ...]]] = {
    "key_file": keys_of_pem,
    "jwks_file": keys_of_jwks,
    "secret_file": keys_of_secret,
}
_log = logging.getLogger("localstore.hub.accounts")


class NotTrustedError(Exception):
    """A token is not good; the text says why, for the hub's own log, and quotes nothing of the token."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a good token says.

    Attributes:
        issuer, subject: whom it means.
        email: None unless the issuer says that it was verified.
    """

    issuer: str
    subject: str
    email: str | None


@dataclass(eq=False)
class Issuer:
    """A service whose tokens are taken.

    Attributes:
        name, audience: what its tokens say in ``iss`` and ``aud``.
        path: of the file with its keys, which is read again when it has changed.
    """

    name: str
    audience: str
    path: Path
    read: Callable[[bytes], tuple[VerifyingKey, ...]] = field(repr=False)
    _seen: tuple[int, int] | None = field(default=None, repr=False)
    _keys: tuple[VerifyingKey, ...] = field(default=(), repr=False)

    def keys(self) -> tuple[VerifyingKey, ...]:
        """Its keys as the file has them now; those of before when it cannot be read."""
        try:
            state = self.path.stat()
            if (seen := (state.st_mtime_ns, state.st_size)) != self._seen:
                self._keys, self._seen = self.read(self.path.read_bytes()), seen
        except (OSError, ValueError) as error:
            if self._seen is None:
                raise ValueError(
                    f"The key of the issuer {shown(self.name)} cannot be read from {self.path}: {_why(error)}"
                ) from None
            _log.error("keys of issuer %s not read again from %s: %s", shown(self.name), self.path, _why(error))
        return self._keys


def read_issuers(path: Path) -> tuple[Issuer, ...]:
    """The issuers that a TOML file names.

    Raises:
        ValueError: the file, or a key that it names, cannot be used; says which and why, and quotes no key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {_why(error)}") from None
    found = tables.get("issuer")
    if set(tables) != {"issuer"} or not isinstance(found, list):
        raise ValueError(f"{path} should have [[issuer]] tables and nothing else.")
    issuers = tuple(_issuer(table, path) for table in found)
    if len({issuer.name for issuer in issuers}) < len(issuers):
        raise ValueError(f"{path} has an issuer twice.")
    return issuers


def _issuer(table: Any, path: Path) -> Issuer:
    kinds = [kind for kind in _KINDS if isinstance(table, dict) and kind in table]
    if len(kinds) != 1 or set(table) != {"issuer", "audience", *kinds} or not all(_is_text(value) for value in table.values()):
        raise ValueError(
            f"Each [[issuer]] in {path} has the texts issuer and audience, and one of {', '.join(_KINDS)}; nothing else."
        )
    issuer = Issuer(table["issuer"], table["audience"], path.parent / table[kinds[0]], _KINDS[kinds[0]])
    issuer.keys()
    return issuer


def verify(token: str, issuers: tuple[Issuer, ...], now: float) -> Verified:
    """What a token says, when one of the issuers signed it and it is good now, Unix seconds.

    Raises:
        NotTrustedError: it is not good.
    """
    import jwt

    if len(token) > _TOKEN_MAX or not token.isascii():
        raise NotTrustedError("too long, or not ASCII")
    try:
        header = jwt.get_unverified_header(token)
        unverified = jwt.decode(token, options={"verify_signature": False})
        issuer = next((one for one in issuers if one.name == unverified.get("iss")), None)
        if issuer is None:
            raise NotTrustedError("unknown issuer")
        key = _key_for(header, issuer.keys())
        claims = jwt.decode(
            token,
            key.key,
            algorithms=list(key.algorithms),
            audience=issuer.audience,
            issuer=issuer.name,
            options={"require": ["exp", "iss", "aud", "sub"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:  # what PyJWT lets through of odd JSON
        raise NotTrustedError(type(error).__name__) from None
    if (problem := times_hold(claims, now)) is not None:
        raise NotTrustedError(problem)
    return _verified(issuer.name, claims)


def times_hold(claims: Mapping[str, Any], now: float) -> str | None:
    """Why a token is not good at a time, by its ``exp``, ``nbf`` and ``iat``; None when it is."""
    times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
    if not all(type(value) in (int, float) and math.isfinite(value) for value in times.values()):
        return "a time is no number"
    if times.get("exp", 0) <= now - LEEWAY_SECONDS:
        return "expired"
    if max(times.get("nbf", 0), times.get("iat", 0)) > now + LEEWAY_SECONDS:
        return "not yet valid"
    return None


def _verified(issuer: str, claims: Mapping[str, Any]) -> Verified:
    subject, email = claims.get("sub"), claims.get("email")
    if not isinstance(subject, str) or not 0 < len(subject) <= _SUBJECT_MAX or not subject.isprintable():
        raise NotTrustedError("no usable subject")
    is_checked = claims.get("email_verified") is True and isinstance(email, str)
    return Verified(issuer=issuer, subject=subject, email=email_of(email) if is_checked else None)


def _key_for(header: Mapping[str, Any], keys: tuple[VerifyingKey, ...]) -> VerifyingKey:
    """The key that a token names; it need name none when there is only one."""
    kid = header.get("kid")
    named = [key for key in keys if key.kid == kid] if kid is not None else []
    if len(named) == 1:
        return named[0]
    if not named and len(keys) == 1 and (kid is None or keys[0].kid is None):
        return keys[0]
    raise NotTrustedError("unknown key")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _why(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, OSError) else str(error)
