"""URLs of remotes as they may be shown: a password or token in one must not end up in a message, a log or a ``repr``.

Whoever prints a remote's URL, adapters too, prints ``redacted(url)``; a text of somebody else's that may hold one goes
through ``redacted_text``. Better too much hidden than too little: what looks like a secret is taken for one.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, unquote_plus, urlsplit

__all__ = ["HIDDEN", "redacted", "redacted_text", "split_url"]

HIDDEN = "***"

_SECRET_NAME = re.compile(r"pass|pwd|secret|token|key|auth|cred|sig|sas|session|jwt|bearer", re.IGNORECASE)
_PARAMETER = re.compile(r"(?P<name>[^?&;#=\s/@]+)=(?=.)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
_PLAIN_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")  # a host, and a port that is one


def redacted(url: str) -> str:
    """A URL with ``***`` for the user and password in it, and from the first query parameter on that looks like a secret.

    It need not be a good URL: one that is refused may hold a password all the same.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    slashes = rest[: len(rest) - len(rest.lstrip("/"))]
    shown = _without_user(rest[len(slashes) :], is_url=bool(separator))
    return scheme + separator + slashes + _without_secrets(shown)


def redacted_text(text: str) -> str:
    """A text with every URL in it redacted, such as the message of another library's error."""
    return _URL.sub(lambda found: redacted(found[0]), text)


def split_url(url: str) -> SplitResult:
    """``urllib.parse.urlsplit``, whose own errors quote the part with the password.

    Raises:
        ValueError: the URL cannot be read.
    """
    try:
        return urlsplit(url)
    except ValueError:
        pass  # and out of the handler: the error's text must not come along as context
    raise ValueError(
        f"The URL {redacted(url)!r} cannot be read. Percent-encode special characters in it, as %40 for @ and %5B for [."
    )


def _without_user(rest: str, *, is_url: bool) -> str:
    """What follows the ``://``, without what comes before the host.

    A password that holds '/', '?', '#' or '@' unencoded hides where the host begins: then all up to the last @ goes.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in rest or (is_url and "@" not in authority and _PLAIN_HOST.fullmatch(authority)):
        return rest
    return HIDDEN + "@" + rest.rpartition("@")[2]


def _without_secrets(rest: str) -> str:
    """Without the value of a secret and all that follows: it may hold the '&' that seems to end it."""
    for parameter in _PARAMETER.finditer(rest):
        if _SECRET_NAME.search(unquote_plus(parameter["name"])):
            return rest[: parameter.end()] + HIDDEN
    return rest
