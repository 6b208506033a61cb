"""Processes killed with SIGKILL at any moment.

The delays are drawn evenly over the length that a phase has when nobody is killed, which is measured first and again whenever
one comes to its end before it is killed.
"""

from __future__ import annotations

import random
import statistics

from tests.crashes.checking import Trial
from tests.crashes.world import PHASES, World

__all__ = ["Killing"]

RECOVERY_KILLED = 0.3  # in which part of the cases the recovery is killed as well, and the next one
RECOVERIES_KILLED_MAX = 3


class Killing(Trial):
    """A trial whose strikes are kills."""

    def strike(self, name: str, chance: random.Random) -> str:
        share = chance.random()
        run = self.process(PHASES[name], name, after=share * statistics.median(self.lengths[name]))
        if run.is_killed:
            self.strikes[name] += 1
        else:
            self.note_length(name, run)
        return f"{name}, killed at {share:.3f}"

    def disturb_recovery(self, what: str, chance: random.Random) -> None:
        for _ in range(RECOVERIES_KILLED_MAX):
            if chance.random() >= RECOVERY_KILLED:
                return
            length = statistics.median(self.lengths["recovering"])
            run = self.process(World.recovering, "recovering", after=chance.random() * length)
            self.strikes["recovering"] += run.is_killed
            self.check_files(f"recovering from {what}")
