"""The two state machines, cell by cell, against tables written from the description of Realm's sessions and not from the code.

A cell is ``STATE effects``; a dot is an event that is ignored. Letters: start (s), stop (x), renew token (t), abort waits (a),
report the error (r).
"""

from __future__ import annotations

import pytest

from localstore import ConnectionState, SessionState
from localstore.sync.state import CONNECTIONS, TRANSITIONS, ConnectionEvent, Effect, Event, Transition

EXPECTED = """
                    | ACTIVE        | PAUSED    | INACTIVE  | DYING       | WAITING
OPEN                | .             | .         | ACTIVE s  | ACTIVE      | .
OPEN_STALE          | .             | .         | WAITING t | WAITING xt  | .
PAUSE               | PAUSED xa     | .         | PAUSED    | PAUSED xa   | PAUSED xa
RESUME              | .             | ACTIVE s  | ACTIVE s  | ACTIVE      | .
RESUME_STALE        | .             | WAITING t | WAITING t | WAITING xt  | .
CLOSE               | INACTIVE xa   | .         | .         | INACTIVE xa | INACTIVE xa
CLOSE_AFTER_UPLOAD  | DYING         | .         | .         | .           | INACTIVE xa
UPLOADED            | .             | .         | .         | INACTIVE xa | .
TOKEN_RENEWED       | .             | .         | .         | .           | ACTIVE s
TOKEN_KEPT          | .             | .         | .         | .           | ACTIVE s
TOKEN_REFUSED       | INACTIVE xar  | .         | .         | INACTIVE xa | INACTIVE xar
FATAL_ERROR         | INACTIVE xar  | .         | .         | INACTIVE xa | INACTIVE xar
LOG_OUT             | INACTIVE xa   | .         | .         | INACTIVE xa | INACTIVE xa
LOG_IN              | .             | .         | ACTIVE s  | .           | .
LOG_IN_STALE        | .             | .         | WAITING t | .           | .
"""

EXPECTED_CONNECTIONS = """
         | DISCONNECTED | CONNECTING   | CONNECTED
ATTEMPT  | CONNECTING   | .            | CONNECTING
WELCOME  | .            | CONNECTED    | .
LOST     | .            | DISCONNECTED | DISCONNECTED
"""

STATES = {"WAITING": SessionState.WAITING_FOR_ACCESS_TOKEN, **{state.name: state for state in SessionState}}
EFFECTS = {
    "s": Effect.START,
    "x": Effect.STOP,
    "t": Effect.RENEW_TOKEN,
    "a": Effect.ABORT_WAITS,
    "r": Effect.REPORT,
}


def cells(table: str) -> dict[tuple[str, str], str]:
    """``(column, row) -> cell`` of a table drawn in text."""
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in table.strip("\n").splitlines()]
    return {(column, row[0]): cell for row in rows for column, cell in zip(head[1:], row[1:], strict=True)}


def transition(state: SessionState, cell: str) -> Transition:
    if cell == ".":
        return Transition(state)
    name, _, letters = cell.partition(" ")
    effects = Effect.NONE
    for letter in letters:
        effects |= EFFECTS[letter]
    return Transition(STATES[name], effects)


SESSION_CELLS = [(STATES[state], Event[event], cell) for (state, event), cell in cells(EXPECTED).items()]
CONNECTION_CELLS = [
    (ConnectionState[state], ConnectionEvent[event], cell) for (state, event), cell in cells(EXPECTED_CONNECTIONS).items()
]


def test_every_state_answers_every_event() -> None:
    assert set(TRANSITIONS) == {(state, event) for state in SessionState for event in Event}
    assert set(CONNECTIONS) == {(state, event) for state in ConnectionState for event in ConnectionEvent}


def test_the_expectations_miss_no_cell() -> None:
    assert {(state, event) for state, event, _ in SESSION_CELLS} == set(TRANSITIONS)
    assert {(state, event) for state, event, _ in CONNECTION_CELLS} == set(CONNECTIONS)


@pytest.mark.parametrize(("state", "event", "cell"), SESSION_CELLS, ids=lambda value: getattr(value, "name", None))
def test_a_session_goes_where_the_event_leads(state: SessionState, event: Event, cell: str) -> None:
    assert TRANSITIONS[state, event] == transition(state, cell)


@pytest.mark.parametrize(("state", "event", "cell"), CONNECTION_CELLS, ids=lambda value: getattr(value, "name", None))
def test_a_connection_goes_where_the_event_leads(state: ConnectionState, event: ConnectionEvent, cell: str) -> None:
    assert CONNECTIONS[state, event] is (state if cell == "." else ConnectionState[cell])


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("event", Event)
def test_a_cycle_runs_exactly_while_a_session_is_active_or_dying(state: SessionState, event: Event) -> None:
    running = {SessionState.ACTIVE, SessionState.DYING}
    transition = TRANSITIONS[state, event]
    assert (Effect.START in transition.effects) == (state not in running and transition.state in running)
    assert (Effect.STOP in transition.effects) >= (state in running and transition.state not in running)


@pytest.mark.parametrize("event", [event for event in Event if event not in (Event.RESUME, Event.RESUME_STALE)])
def test_nothing_but_resuming_ends_a_pause(event: Event) -> None:
    assert TRANSITIONS[SessionState.PAUSED, event] == Transition(SessionState.PAUSED)


@pytest.mark.parametrize(("state", "event"), TRANSITIONS)
def test_an_error_is_reported_only_where_it_also_breaks_waits_off(state: SessionState, event: Event) -> None:
    effects = TRANSITIONS[state, event].effects
    assert Effect.REPORT not in effects or Effect.ABORT_WAITS in effects
