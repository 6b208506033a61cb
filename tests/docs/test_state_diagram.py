"""The picture of the session states in the docs is what the table in the code says."""

from __future__ import annotations

import re
from pathlib import Path

from localstore.sync.diagram import state_diagram
from localstore.sync.state import TRANSITIONS

PAGE = Path(__file__).parents[2] / "docs" / "sync-sessions.md"


def test_the_page_shows_the_table_as_it_is() -> None:
    (drawn,) = re.findall(r"^```mermaid\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert drawn == state_diagram(), "python -m localstore.sync.diagram prints the picture for docs/sync-sessions.md"


def test_the_picture_has_every_transition_that_leads_somewhere() -> None:
    arrows = re.findall(r"^ +(\w+) --> (\w+): (.*)$", state_diagram(), re.MULTILINE)
    drawn = {(old, event.strip(), new) for old, new, events in arrows for event in events.split(",")}
    assert drawn == {
        (state.name, event.name.lower().replace("_", " "), transition.state.name)
        for (state, event), transition in TRANSITIONS.items()
        if transition.state is not state
    }
