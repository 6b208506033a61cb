"""What an adapter's author hands to the suite: a remote, and what can be done to it from outside."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from localstore.adapter import SyncAdapter

__all__ = ["POWERS", "CanBeWiped", "CanGoOffline", "CanRefuse", "CanTrim", "RemoteUnderTest"]

POWERS = frozenset({"offline", "wipe", "refuse", "trim", "watch", "ping", "snapshots"})
"""All that a subclass can claim: the four Protocols below, and the capabilities ``watch``, ``ping`` and ``snapshots``."""


class RemoteUnderTest(Protocol):
    """A fresh, empty remote. Must be ready for use; the fixture takes it down after the test."""

    def make_adapter(self) -> SyncAdapter:
        """A new line to the remote, for any device. Called several times, also from other threads."""
        ...


@runtime_checkable
class CanGoOffline(Protocol):
    """Power ``offline``: the remote can be put out of reach, and its content survives that."""

    def go_offline(self) -> None: ...

    def go_online(self) -> None: ...


@runtime_checkable
class CanBeWiped(Protocol):
    """Power ``wipe``: an empty remote with another identity takes the place of this one, at the same address."""

    def wipe(self) -> None: ...


@runtime_checkable
class CanRefuse(Protocol):
    """Power ``refuse``: the remote can be told to refuse changesets above a size from now on."""

    def refuse_larger_than(self, byte_count: int) -> None: ...


@runtime_checkable
class CanTrim(Protocol):
    """Power ``trim``: the remote can be made to forget its history up to now, as if that were older than its horizon."""

    def trim_history(self) -> None: ...
