"""The simulation finds what it is there to find: ``python -m tests.simulation --planted`` looks for all of it."""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED, ROOT, Planted, look_for

QUICK = {
    "the outbox is deleted before the acknowledgement",
    "a tombstone is purged early",
    "the wake-up of a commit is lost while the session waits",
}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_each_mistake_has_its_place(planted: Planted) -> None:
    assert (ROOT / "localstore" / planted.file).read_text(encoding="utf-8").count(planted.right) == 1


@pytest.mark.slow
@pytest.mark.parametrize("planted", [planted for planted in PLANTED if planted.name in QUICK], ids=lambda planted: planted.name)
def test_a_planted_mistake_is_found(planted: Planted) -> None:
    assert look_for(planted, seed=0) is not None
