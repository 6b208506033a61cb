"""The state table as a picture: Mermaid text, drawn from the table itself so that docs cannot say anything else."""

from __future__ import annotations

from collections.abc import Iterable

from localstore.sync.state import TRANSITIONS, Event, SessionState, Transition

__all__ = ["state_diagram"]


def state_diagram() -> str:
    """All transitions that lead somewhere, those from one state to another on one arrow."""
    arrows: dict[tuple[SessionState, SessionState], list[Event]] = {}
    for (state, event), transition in TRANSITIONS.items():
        if _leads_somewhere(state, transition):
            arrows.setdefault((state, transition.state), []).append(event)
    lines = ["stateDiagram-v2", f"    [*] --> {SessionState.INACTIVE.name}"]
    lines += [f"    {old.name} --> {new.name}: {_said(events)}" for (old, new), events in arrows.items()]
    return "\n".join(lines) + "\n"


def _leads_somewhere(state: SessionState, transition: Transition) -> bool:
    return transition.state is not state


def _said(events: Iterable[Event]) -> str:
    return ", ".join(event.name.lower().replace("_", " ") for event in events)


if __name__ == "__main__":
    print(state_diagram(), end="")  # noqa: T201  python -m localstore.sync.diagram
