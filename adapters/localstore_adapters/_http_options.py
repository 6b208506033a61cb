"""What the URL of a hub says: where it is, and how to get there. Pure.

``https://host/app?users=no&watch=poll&ca=/path/ca.pem&proxy=http://proxy:3128``: what follows the ``?`` is for the adapter
alone and never sent. This module knows no network.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlunsplit

from localstore.urls import redacted, split_url

__all__ = ["HttpOptions", "Watching", "read_url"]

Watching = Literal["auto", "events", "poll", "no"]
_YES_NO = {"yes": True, "no": False}
_WATCHING: dict[str, Watching] = {"auto": "auto", "events": "events", "poll": "poll", "no": "no"}


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """How to reach a hub.

    Attributes:
        base: where it is, without a slash at the end; all calls are below it.
        users: whether the hub has users.
        watch: how news is heard of: by a stream of events, by long polls, by a stream that gives way to polls when it is held
            up on its way, or not at all.
        ca: a PEM file with the certificates to trust, instead of the system's.
        proxy: URL of a proxy; None for what the environment says (``HTTPS_PROXY``, ``NO_PROXY``), ``""`` for none.
        timeout: seconds to wait for each part of an answer, besides the session's limits; None leaves it to these.
        held_up_seconds: after how long without a word a stream counts as held up; a hub says one at once.
    """

    base: str
    users: bool = True
    watch: Watching = "auto"
    ca: str | None = None
    proxy: str | None = None
    timeout: float | None = None
    held_up_seconds: float = 10.0


def read_url(url: str) -> HttpOptions:
    """What a URL says.

    Raises:
        ValueError: it names no hub, holds a password, or has options that do not exist.
    """
    parts = split_url(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{redacted(url)!r} names no hub. Write it as in 'https://sync.example.com/todo'.")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{redacted(url)!r} has a user in it. Users log in with app.login(), and are not part of the URL.")
    if parts.fragment:
        raise ValueError(f"{redacted(url)!r} has a '#'. Write it as %23.")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"{redacted(url)!r} has a port that is none.") from None
    base = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    options = HttpOptions(base=base)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        options = _with(options, name, value, url)
    return options


def _with(options: HttpOptions, name: str, value: str, url: str) -> HttpOptions:
    if name == "users" and value in _YES_NO:
        return dataclasses.replace(options, users=_YES_NO[value])
    if name == "watch" and value in _WATCHING:
        return dataclasses.replace(options, watch=_WATCHING[value])
    if name == "ca" and value:
        return dataclasses.replace(options, ca=value)
    if name == "proxy":
        return dataclasses.replace(options, proxy=value)
    if name == "timeout" and (seconds := _positive(value)) is not None:
        return dataclasses.replace(options, timeout=seconds)
    raise ValueError(
        f"{redacted(url)!r} has an option that cannot be used: {name!r}. There are users=yes|no, watch=auto|events|poll|no,"
        " ca=<PEM file>, proxy=<URL> and timeout=<seconds>."
    )


def _positive(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds <= 86_400 else None
