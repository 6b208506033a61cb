"""Whatever several devices write, and however it reaches them, all show what ``docs/merging.md`` says: see ``tests.merging``.

``python -m tests.merging`` runs more examples, and ``python -m tests.merging --planted`` shows that mistakes are found.
"""

from __future__ import annotations

import pytest

from tests.merging.running import SHARES, run

EXAMPLES = 200  # every day; .ci/run has more
PARTS = 2  # so that they can run beside each other


@pytest.mark.parametrize("seed", range(PARTS))
def test_all_devices_show_what_the_rules_make_of_everybodys_changes(seed: int) -> None:
    tally = run(EXAMPLES // PARTS, seed)
    assert tally["examples"] >= EXAMPLES // PARTS
    assert [name for name in SHARES if not tally[name]] == []
