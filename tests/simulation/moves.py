"""The states of sessions, looked at before each step: they follow each other as in the table, and do as they were told.

The table is the library's own. What applications rely on is written here once more: a session that was paused stays so until it
is resumed, whatever else happens; one whose user is logged out, or whose realm is closed, does not sync; one that does not sync
is not connected; and one that has ended is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from localstore.sync.session import SyncSession
from localstore.sync.state import TRANSITIONS, ConnectionState, SessionState
from localstore.user import UserState
from tests.simulation.process import Process

__all__ = ["Moves"]

_MOVES = {(old, transition.state) for (old, _), transition in TRANSITIONS.items()}
_AWAKE = {SessionState.ACTIVE, SessionState.WAITING_FOR_ACCESS_TOKEN}
_CONNECTS = {SessionState.ACTIVE, SessionState.DYING}


@dataclass
class _Known:
    """What is known of a process's present session.

    Attributes:
        session: which.
        state: as it was seen last; None when it was resumed since, and may have come to any by now.
        is_paused: by the application, which has not resumed it since.
        has_ended: since it was seen last.
    """

    session: SyncSession
    state: SessionState | None
    is_paused: bool = False
    has_ended: bool = False


class Moves:
    """Watches sessions.

    Args:
        fail: is told what is wrong.
    """

    def __init__(self, fail: Callable[[str], object]) -> None:
        self._fail = fail
        self._known: dict[Process, _Known] = {}

    def opened(self, process: Process) -> None:
        """A realm was opened, and has a session that was not there before."""
        self._known[process] = _Known(process.session, process.session.state)
        self.moved(process)

    def died(self, process: Process) -> None:
        self._known.pop(process, None)

    def paused(self, process: Process) -> None:
        """The application has just paused it."""
        known = self._known[process]
        known.is_paused = not known.session.has_ended
        self.moved(process)

    def resumes(self, process: Process) -> None:
        """The application is about to resume it."""
        self.moved(process)
        known = self._known[process]
        known.is_paused, known.state = False, None

    def moved(self, process: Process) -> None:
        """See what state it is in."""
        known = self._known.get(process)
        if known is None or process.is_dead or known.session is not process.session:
            return
        before, known.state = known.state, known.session.state
        ended_before, known.has_ended = known.has_ended, known.session.has_ended
        for wrong in self._wrongs(process, known, before, ended_before=ended_before):
            self._fail(f"{process.name}: the session went from {before} to {known.state} and {wrong}")

    def _wrongs(self, process: Process, known: _Known, before: SessionState | None, *, ended_before: bool) -> list[str]:
        state, connection = known.session.state, known.session.connection_state
        found = []
        if before not in (None, state) and (before, state) not in _MOVES:
            found.append("there is no such way")
        if before not in (None, state) and ended_before:
            found.append("had ended")
        if known.is_paused and state is not SessionState.PAUSED:
            found.append("was not resumed")
        if state in _AWAKE and process.realm.is_closed:
            found.append("its realm is closed")
        if state in _CONNECTS and process.user_state is not UserState.LOGGED_IN:
            found.append(f"its user is {process.user_state.value}")
        if connection is not ConnectionState.DISCONNECTED and state not in _CONNECTS:
            found.append(f"is {connection.value}")
        return found
