"""Devices under churn take no more and more memory, threads, open files or room: see ``tests.soak``."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.figures import ALLOWANCES, KIB, Allowance, judge
from tests.soak.running import same_rows, soak

MEMORY = ALLOWANCES["memory"]
BASE = 80_000 * KIB
SECONDS = 7200


def series(value: Callable[[float], float]) -> list[tuple[float, float]]:
    return [(float(second), value(second)) for second in range(0, SECONDS, 10)]


def noisy(seed: int) -> Callable[[float], float]:
    chance = random.Random(seed)
    return lambda _: BASE + chance.gauss(0, 500 * KIB)


class TestWhetherAFigureIsFlat:
    def test_noise_is_flat(self) -> None:
        assert all(judge(series(noisy(seed)), MEMORY).is_flat for seed in range(10))

    def test_what_grows_while_it_warms_up_is_flat(self) -> None:
        assert judge(series(lambda second: BASE * (1 - 0.5 * 0.5 ** (second / 300))), MEMORY).is_flat

    def test_a_sawtooth_is_flat(self) -> None:
        sizes = Allowance(128 * KIB, 0.1)
        assert all(judge(series(lambda second, p=period: (second % p) * KIB), sizes).is_flat for period in (90, 400, 700))

    def test_what_begins_anew_at_a_point_is_flat_up_to_there(self) -> None:
        log = ALLOWANCES["wal"]
        assert judge(series(lambda second: 2 * second * KIB), log).is_flat
        assert not judge(series(lambda second: 3 * second * KIB), log).is_flat

    def test_a_peak_is_flat(self) -> None:
        assert judge(series(lambda second: BASE * (3 if 5000 < second < 5400 else 1)), MEMORY).is_flat

    def test_a_leak_of_a_kilobyte_a_second_is_not(self) -> None:
        for seed in range(10):
            noise = noisy(seed)
            assert not judge(series(lambda second, noise=noise: noise(second) + second * KIB), MEMORY).is_flat

    def test_a_thread_that_is_left_every_half_hour_is_not(self) -> None:
        assert not judge(series(lambda second: 12 + second // 1800), ALLOWANCES["threads"]).is_flat

    def test_one_open_file_more_is_flat_and_one_every_twenty_minutes_is_not(self) -> None:
        assert judge(series(lambda second: 30 + (second > 4000)), ALLOWANCES["descriptors"]).is_flat
        assert not judge(series(lambda second: 30 + second // 1200), ALLOWANCES["descriptors"]).is_flat

    def test_of_too_few_samples_nothing_is_said(self) -> None:
        with pytest.raises(ValueError, match="too few"):
            judge(series(lambda _: BASE)[:20], MEMORY)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("remote", ["folder"])
@pytest.mark.parametrize("seed", [1])
def test_a_minute_of_churn_leaves_everything_flat_but_for_what_is_planted(tmp_path: Path, remote: str, seed: int) -> None:
    """Devices that make haste, and leak what is to be told of each; the first leaks nothing. How much lies at the remote is a
    matter of longer runs: in this one it is trimmed a few times only."""
    leaks = {2: "memory", 3: "descriptors", 4: "threads"}
    run = soak(tmp_path, seconds=50, devices=4, remote=remote, seed=seed, tell=lambda *_: None, pause_seconds=0.6, leaks=leaks)
    assert same_rows(tmp_path, 4) > 100
    grew = [(who, name, verdict) for who, name, verdict in run.verdicts(remote) if not verdict.is_flat and who != "remote"]
    assert [(who, name) for who, name, _ in grew] == [(f"device {number}", name) for number, name in leaks.items()], grew
    assert min(counts["write"] for counts in run.counts.values()) > 10
