"""Runs the state machine as often as somebody wants, and says what it came across."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.merging.machine import STEPS, Merging, tally

__all__ = ["SHARES", "run"]

SHARES = {
    "values lost": 0.10,
    "references not shown": 0.05,
    "rows set aside for what they refer to": 0.05,
    "rows set aside for unique values or checks": 0.05,
    "several rows set aside at once": 0.01,
    "rows came back": 0.02,
    "clocks forgotten": 0.20,
}
"""In which part of the examples these must happen, lest they prove nothing: about half of what the poorest of the seeds has, as
another Hypothesis may draw other examples."""


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
