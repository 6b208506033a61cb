"""How much has happened to a store's data, and which devices take part, as far as the store has heard."""

from __future__ import annotations

from dataclasses import dataclass

from localstore.clock import stamp_ms
from localstore.store.engine import driver_connection
from localstore.store.file import Store
from localstore.store.state import load_state

__all__ = ["Activity", "activity"]


@dataclass(frozen=True)
class Activity:
    """What a store has heard.

    Attributes:
        device: its own.
        changesets: how many there were in all, of all devices.
        others: when each of the others wrote last, milliseconds since the Unix epoch by its own clock.
        latest_ms: when anybody wrote last.
    """

    device: bytes
    changesets: int
    others: dict[bytes, int]
    latest_ms: int


def activity(store: Store) -> Activity:
    """What a store has heard up to now."""
    with store.read() as session:
        connection = driver_connection(session.connection())
        state = load_state(connection)
        found = connection.execute(
            "SELECT device, number, stamp FROM localstore_device WHERE number > 0 AND device <> ?", (state.device,)
        ).fetchall()
    others = {device: stamp_ms(stamp) for device, _, stamp in found}
    changesets = state.last_number + sum(number for _, number, _ in found)
    return Activity(state.device, changesets, others, max([stamp_ms(state.last_stamp), *others.values()]))
