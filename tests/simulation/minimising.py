"""Leaves out of a plan that fails whatever it fails without: what is left can be read by a person."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.plan import Plan

__all__ = ["minimised"]


def minimised(plan: Plan, fails: Callable[[Plan], bool], *, most_runs: int = 300) -> Plan:
    """A plan that still fails and has no part to spare, as far as so many runs can tell.

    Args:
        plan: one that fails.
        fails: carries a plan out.
        most_runs: how often at most.
    """
    size, runs = max(1, len(plan.ops) // 2), 0
    while size and runs < most_runs:
        start, has_shrunk = 0, False
        while start < len(plan.ops) and runs < most_runs:
            shorter = plan.without(set(range(start, start + size)))
            runs += 1
            if fails(shorter):
                plan, has_shrunk = shorter, True
            else:
                start += size
        if not has_shrunk or size > len(plan.ops):
            size = min(size // 2, len(plan.ops))
    return plan
