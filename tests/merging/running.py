"""Runs the state machine as often as somebody wants, and says what it came across."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.merging.machine import STEPS, Merging, tally

__all__ = ["run"]


def run(examples: int, number: int | None = None, *, shrink: bool = True) -> Counter[str]:
    """Run so many examples at least.

    Args:
        examples: how many.
        number: a seed, to have the same examples another time.
        shrink: whether a failing example is made smaller before it is shown.

    Returns:
        In how many of them something happened.

    Raises:
        What a failing example raises; ``tally`` has what was run until then.
    """
    tally.clear()
    machine = type("Merging", (Merging,), {})
    if number is not None:
        machine = seed(number)(machine)
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]
    how = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=how)
    return Counter(tally)
