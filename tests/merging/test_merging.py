"""Whatever several devices write, and however it reaches them, all show what ``docs/merging.md`` says: see ``tests.merging``.

``python -m tests.merging`` runs more examples, and ``python -m tests.merging --planted`` shows that mistakes are found.
"""

from __future__ import annotations

import pytest

from tests.merging.running import run

EXAMPLES = 2000
PARTS = 4  # so that they can run beside each other
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


@pytest.mark.parametrize("seed", range(PARTS))
def test_all_devices_show_what_the_rules_make_of_everybodys_changes(seed: int) -> None:
    tally = run(EXAMPLES // PARTS, seed)
    assert tally["examples"] >= EXAMPLES // PARTS
    found = {name: tally[name] / tally["examples"] for name in SHARES}
    assert {name: share for name, share in found.items() if share < SHARES[name]} == {}
