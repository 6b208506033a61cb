"""Histories of chance, as a state machine of Hypothesis.

Rules take bytes and not values, as drawing value by value takes longer than all that is done with them; what came of them is
in the report of an example that fails. Hypothesis leaves half of a machine's rules out in every example, so each rule but one
begins with what makes histories worth merging: devices that write apart from each other.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.merging.digits import Digits
from tests.merging.story import Story

__all__ = ["STEPS", "Merging", "tally"]

STEPS = 7
"""In one example, at most."""
tally: Counter[str] = Counter()
"""In how many examples something happened, by its name; ``examples`` for all."""
DATA = st.binary(min_size=48, max_size=48)


class Merging(RuleBasedStateMachine):
    """Devices that write, deliver, restart and forget in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.story: Story | None = None

    @initialize(data=DATA)
    def begin(self, data: bytes) -> None:
        self.story = Story(data, note)

    @rule(data=DATA)
    def write_and_deliver(self, data: bytes) -> None:
        digits = Digits(data)
        self.told.write_apart(digits)
        self.told.deliver(digits)

    @rule(data=DATA)
    def write_and_exchange(self, data: bytes) -> None:
        digits = Digits(data)
        self.told.write_apart(digits)
        self.told.exchange(digits.below(100))

    @rule(data=DATA)
    def write_and_tend(self, data: bytes) -> None:
        digits = Digits(data)
        self.told.write_apart(digits)
        self.told.tend(digits)

    @rule(data=DATA)
    def write(self, data: bytes) -> None:
        digits = Digits(data)
        self.told.write(digits)
        self.told.tend(digits)

    @property
    def told(self) -> Story:
        assert self.story
        return self.story

    def teardown(self) -> None:
        if self.story is None:
            return
        try:
            self.story.end()
        finally:
            self.story.network.close()
            tally.update(self.story.happened)
