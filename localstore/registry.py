"""Finding an adapter by the scheme of a remote's URL, through the entry-point group ``localstore.adapters``.

An entry point names a callable ``(url: str) -> SyncAdapter``. It is loaded when its scheme is first asked for, so that a
broken plugin breaks only its own scheme, and nobody pays for adapters that are not used. A remote whose tables somebody has to
bring up to date names a callable ``(url: str) -> None`` for that in the group ``localstore.migrations``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from localstore.adapter import Capabilities, SyncAdapter
from localstore.urls import redacted, split_url

__all__ = ["ENTRY_POINT_GROUP", "MIGRATIONS_GROUP", "AdapterFactory", "Lines", "adapter_factory", "known_schemes", "migrate"]

ENTRY_POINT_GROUP = "localstore.adapters"
MIGRATIONS_GROUP = "localstore.migrations"
AdapterFactory = Callable[[], SyncAdapter]
"""Makes one device's line to a remote; called once a session."""


class Lines:
    """Makes adapters, and says what they can do. The one that was made to be asked is the first that is used."""

    def __init__(self, make: AdapterFactory) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._spare: SyncAdapter | None = None
        self._capabilities: Capabilities | None = None

    def leave_to_parent(self) -> None:
        """In a forked child: the adapter at hand is the parent's."""
        self._lock = threading.Lock()
        self._spare = None

    @property
    def capabilities(self) -> Capabilities:
        """What adapters of this remote can do; raises what making one raises."""
        with self._lock:
            if self._capabilities is None:
                self._spare = self._make()
                self._capabilities = self._spare.capabilities
            return self._capabilities

    def __call__(self) -> SyncAdapter:
        with self._lock:
            spare, self._spare = self._spare, None
        return spare or self._make()


def adapter_factory(remote: str) -> AdapterFactory:
    """What makes adapters for a remote's URL, such as ``folder:///mnt/share/todo``.

    Raises:
        ValueError: the URL has no scheme, or none that is installed.
        ImportError: the scheme's extra is not installed; the message has the command.
    """
    scheme = split_url(remote).scheme
    found = _find(scheme) if scheme else None
    if found is None and not (scheme and "://" in remote):
        raise ValueError(
            f"{redacted(remote)!r} is not the URL of a remote. Write it with its scheme, as in 'folder:///mnt/share/todo'."
        )
    if found is None:
        raise ValueError(
            f"No adapter is installed for {scheme!r} remotes. Installed: {', '.join(known_schemes()) or 'none'}. "
            f"A package provides one through the entry-point group {ENTRY_POINT_GROUP!r}."
        )
    make = found.load()
    return lambda: make(remote)


def known_schemes() -> list[str]:
    """URL schemes for which an adapter is installed, sorted."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)})


def migrate(remote: str) -> bool:
    """Bring a remote's own tables up to date, where it has any. Blocks.

    Returns:
        Whether it has.

    Raises:
        ImportError: the scheme's extra is not installed; the message has the command.
    """
    found = _find(split_url(remote).scheme, MIGRATIONS_GROUP)
    if found is not None:
        found.load()(remote)
    return found is not None


def _find(scheme: str, group: str = ENTRY_POINT_GROUP) -> EntryPoint | None:
    return next(iter(entry_points(group=group, name=scheme)), None)
