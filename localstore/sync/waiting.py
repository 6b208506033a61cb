"""How somebody begins to wait for an upload, and what is told to those whose wait is broken off.

It knows the file and the waits, and not the session they are of.
"""

from __future__ import annotations

from concurrent.futures import Future

from localstore.errors import OperationAborted, StoreBusy
from localstore.store.file import Store
from localstore.sync.state import Event
from localstore.sync.waits import Waits, known

__all__ = ["aborted", "begin_upload"]

_REASONS = {Event.PAUSE: "paused", Event.CLOSE: "closed", Event.LOG_OUT: "ended by logging out"}


def begin_upload(store: Store, waits: Waits, seconds: float | None) -> Future[bool]:
    """Begin to wait until the remote has all that is in a file now. What another program wrote is sealed first, for which
    somebody else's write may have to end.

    Args:
        store: the file.
        waits: of its session.
        seconds: how long sealing may wait for that; None as long as any write does.

    Raises:
        StoreBusy: that write lasts longer than ``busy_timeout``.
    """
    try:
        store.seal(at_most=seconds)
    except StoreBusy:
        if seconds is None or seconds >= store.options.busy_timeout:
            raise
        return known(False)
    if store.last_pending() is None:
        return known(True)
    state = store.state()
    future = waits.upload(state.last_number, state.device)
    if store.state().device == state.device:  # it may have been acknowledged before the wait was known
        waits.acknowledged(store.acknowledged())
    return future


def aborted(event: Event) -> OperationAborted:
    """Why a wait does not go on."""
    return OperationAborted(
        f"The wait was broken off because the session was {_REASONS.get(event, 'ended')}. All changes are safe in the file.",
        hint="Wait again when the session is active.",
    )
