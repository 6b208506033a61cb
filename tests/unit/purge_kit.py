"""What the tests of forgetting share: forgetting all at once, with whatever horizon."""

from __future__ import annotations

from localstore.store.purge import BEGINNING, Record, forget, forgettable
from tests.unit.store_kit import Device, query


def purge_before(device: Device, stamp: int) -> int:
    """Forget all that can be forgotten with this horizon, whatever the clocks say; returns how many records went."""
    device.store.fold()
    count = 0
    after: Record | None = BEGINNING
    with device.store.transaction() as connection:
        while after is not None:
            found, after = forgettable(connection, after, stamp)
            count += forget(connection, found, stamp)
    return count


def purge_everything(device: Device) -> int:
    """Forget all that the device knows by now, as if everybody had seen it."""
    return purge_before(device, device.store.state().last_stamp + 1)


def records(device: Device) -> int:
    """How many rows have a clock."""
    return int(query(device.path, "SELECT count(*) FROM localstore_clock")[0][0])
