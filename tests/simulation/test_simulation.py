"""Whatever befalls devices, network and remote, all devices come to show the same: see ``tests.simulation``.

``python -m tests.simulation --minutes 60`` tries more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.plan import plan
from tests.simulation.world import run

ROOT = Path(__file__).parents[2]
EVERYDAY = (5, 9, 10)
MORE = range(100, 160)
PARTS = 6


def fails(seed: int) -> str | None:
    outcome = run(plan(seed))
    return outcome.failure and f"seed {seed}: {outcome.failure}"


@pytest.mark.parametrize("seed", EVERYDAY)
def test_all_is_well_when_the_faults_have_stopped(seed: int) -> None:
    assert fails(seed) is None


@pytest.mark.slow
def test_what_a_device_could_not_send_for_long_is_merged_alike_by_those_who_have_forgotten() -> None:
    assert run(plan(126)).failure is None


def test_a_device_that_begins_anew_keeps_what_it_wrote_while_its_clock_was_ahead() -> None:
    assert run(plan(500233, at_most=20)).failure is None


def test_a_realm_may_be_closed_at_the_moment_at_which_its_session_is_resumed() -> None:
    assert run(plan(401073, at_most=20)).failure is None


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_all_is_well_in_many_runs(part: int) -> None:
    assert [why for seed in MORE[part::PARTS] if (why := fails(seed))] == []


def test_the_same_seed_is_the_same_run_byte_for_byte() -> None:
    first, second = (trace(3, hash_seed) for hash_seed in ("1", "2"))
    assert first.count("\n") > 100
    assert first == second


def trace(seed: int, hash_seed: str) -> str:
    """What happens in a run, in a process of its own."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed), "--trace"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout
