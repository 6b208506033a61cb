"""What a user should know of what came from the remote or was found in the file: errors for the error handler, in words.

It decides what is told and how often, and knows neither the remote nor how an error is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from localstore.adapter import Page
from localstore.errors import ClockDrift, ConflictsForgotten, Refused, RemoteDamage, RowsSetAside, SyncError
from localstore.store.apply import Applied
from localstore.store.repaired import SetAside

__all__ = ["Reports"]


class Reports:
    """The reports of one life of a session, which says the same thing once."""

    def __init__(self) -> None:
        self._drifting: set[bytes] = set()
        self._warned: set[str] = set()

    def of_page(self, page: Page, applied: Applied) -> Iterator[SyncError]:
        """About a page of history that was applied."""
        for device in applied.drifting.keys() - self._drifting:
            self._drifting.add(device)
            yield ClockDrift(
                f"Device {device.hex()[:8]} has a clock ahead of this one. Its changes are kept until their time comes.",
                hint="Set the clocks of both devices.",
            )
        for device, number, reason in applied.aside:
            yield Refused(
                f"Changeset {number} of device {device.hex()[:8]} cannot be applied here: {reason}. It was set aside.",
                number=number,
                hint="Bring this device's schema up to date.",
            )
        if applied.forgotten:
            yield ConflictsForgotten(
                f"{applied.forgotten} of the oldest conflicts left the list, to make room for newer ones or as they were"
                " too old. The tables hold what they held.",
                count=applied.forgotten,
                hint="Look at realm.conflicts() more often, or raise conflicts_max_age or conflicts_max_count.",
            )
        for warning in page.warnings:
            yield from self.of_warning(warning)

    def of_warning(self, warning: str) -> Iterator[SyncError]:
        """About damage, once and not at every pull."""
        if warning not in self._warned:
            self._warned.add(warning)
            yield RemoteDamage(
                warning,
                hint="What is still arriving is read once it is whole. Restore what was damaged; move away what is another's.",
            )

    def of_file(self, aside: Sequence[SetAside], unsealed: Sequence[tuple[str, str]]) -> Iterator[SyncError]:
        """About rows that went out of their tables, whoever changed what they depend on, and rows that cannot be synced."""
        if aside:
            count = "A row" if len(aside) == 1 else f"{len(aside)} rows"
            yield RowsSetAside(
                f"{count} cannot be shown together with what other devices wrote, the first in {aside[0].table},"
                f" because of {aside[0].why}. What is set aside is kept on all devices, and comes back when it can be.",
                rows=tuple((row.table, row.key, row.why) for row in aside),
                hint="See realm.conflicts(). Change what is in their way or insert what they refer to, or leave them.",
            )
        for table, reason in unsealed:
            yield Refused(
                f"A row of {table} that another program wrote cannot be synced: {reason}. It stays on this device.",
                hint="Correct it with that program, or through localstore.",
            )
