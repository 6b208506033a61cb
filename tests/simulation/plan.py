"""What is to happen in one run, drawn up from its seed before anything does: how the world is, and a list of what befalls it.

Each entry of the list has a source of chance of its own, so that the others stay as they are when one is left out.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from localstore.sync.progress import Direction
from tests.simulation.weather import CALM, Weather

__all__ = ["Op", "Plan", "Setup", "plan"]

_DAY = 86_400.0
_YEAR = 365 * _DAY
_HASTY = 0.06  # how often somebody presses one button of a device after another
_BUTTONS = ("pause", "pause", "log_out", "log_out", "write", "reopen", "close", "crash", "expire_tokens", "reconnect", "upload")


@dataclass(frozen=True)
class Setup:
    """How the world is.

    Attributes:
        devices: how many.
        works: names of the workloads.
        offsets, rates: of the devices' wall clocks, seconds and seconds a second.
        settings: of the application.
        capabilities: of the adapters.
        horizon_days: how long the remote keeps history; None for ever.
        access_seconds: how long the token of a user lives; None where there are no users.
        brings_news: whether hints bring what is new.
    """

    devices: int
    works: tuple[str, ...]
    offsets: tuple[float, ...]
    rates: tuple[float, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    capabilities: dict[str, Any] = field(default_factory=dict)
    horizon_days: float | None = None
    access_seconds: float | None = None
    brings_news: bool = False


@dataclass(frozen=True)
class Op:
    """Something that happens at some time.

    Attributes:
        at: true seconds from the beginning.
        kind: what; the name of a method of ``World``.
        device: to which device.
        seed: of all chance in it.
        with_: more about it.
    """

    at: float
    kind: str
    device: int
    seed: int
    with_: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = "".join(f" {name}={value}" for name, value in self.with_.items())
        return f"{self.at:.3f} {self.kind} d{self.device}{more}"


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    setup: Setup
    ops: tuple[Op, ...]

    def without(self, ops: set[int]) -> Plan:
        """The same but for some entries of the list, by their places in it."""
        return dataclasses.replace(self, ops=tuple(op for place, op in enumerate(self.ops) if place not in ops))


def plan(seed: int, *, at_most: int | None = None) -> Plan:
    """The run of a seed.

    Args:
        seed: decides all.
        at_most: only so many of the things that happen, the first ones; for many short runs.
    """
    chance = random.Random(f"plan {seed}")
    pace = chance.choice((0.01, 1.0, 1.0, 60.0, 3600.0))
    setup = _setup(chance, pace)
    count = chance.choice((20, 40, 80))
    faults = {**_FAULTS, **({} if setup.access_seconds is None else _USERS), **(_PARTINGS if chance.random() < 0.5 else {})}
    shares = {kind: share * chance.choice((0, 1, 1, 3)) for kind, (share, _) in faults.items()}
    at, ops = 0.0, list[Op]()

    def add(kind: str, device: int) -> None:
        more: dict[str, Any] = faults[kind][1](chance) if kind in faults else {"work": chance.choice(setup.works)}
        if kind == "change_weather" and setup.horizon_days is None and chance.random() < 0.2:
            more = {"weather": dataclasses.replace(more["weather"], late_s=2 * _DAY)}
        ops.append(Op(round(at, 3), kind, device, chance.randrange(1 << 32), more))

    while len(ops) < count:
        at += chance.expovariate(1 / pace)
        if chance.random() < _HASTY:
            device, gap = chance.randrange(setup.devices), chance.choice((0.01, 0.2, 3.0))
            for _ in range(chance.randrange(3, 9)):
                add(chance.choice([kind for kind in _BUTTONS if kind == "write" or kind in faults]), device)
                at += chance.expovariate(1 / gap)
        else:
            kind = "write" if chance.random() < 0.6 else chance.choices([*shares, "write"], [*shares.values(), 0.1])[0]
            add(kind, chance.randrange(setup.devices))
    return Plan(seed, setup, tuple(ops[: count if at_most is None else min(count, at_most)]))


def _setup(chance: random.Random, pace: float) -> Setup:
    devices = chance.choice((2, 2, 3, 3, 4, 5))
    wrong, is_far_ahead = chance.choice((0.0, 1.0, 200.0)), chance.random() < 0.1
    horizon = chance.choice((None, None, None, 3600.0, 20_000.0))
    initial = max(chance.choice((0.1, 1.0, 10.0)), pace / 20)
    settings = {
        "page_count": chance.choice((1, 2, 7, 5000)),
        "page_bytes": chance.choice((300, 5000, 4 << 20)),
        "backoff_initial": initial,
        "backoff_factor": chance.choice((1.0, 2.0, 4.0)),
        "backoff_max": initial * chance.choice((1.0, 30.0, 30.0)),
        "backoff_jitter": chance.choice((0.0, 0.25)),
        "request_timeout": chance.choice((5.0, 120.0)),
        "connect_timeout": chance.choice((5.0, 120.0)),
        "ping_period": max(chance.choice((10.0, 60.0, 3600.0)), pace / 3),
        "pong_timeout": chance.choice((6.0, 120.0)),
        "fast_reconnect_limit": chance.choice((2.0, 60.0)),
        "linger": chance.choice((0.0, 0.0, 30.0)),
        "synchronous": chance.choice(("NORMAL", "NORMAL", "FULL")),
        "snapshot_every": chance.choice((1, 3, 10, 30)),
        "max_clock_drift": chance.choice((300.0, 300.0, 1.0, 3600.0)),
        "conflicts_max_age": 10 * _YEAR,
        "client_maximum_offline_time": horizon or 30 * _DAY,
    }
    capabilities = {
        "max_batch_count": chance.choice((1, 2, 1000)),
        "max_batch_bytes": chance.choice((300, 4 << 20)),
        "watch": chance.random() < 0.7,
        "ping": chance.random() < 0.7,
        "snapshots": chance.random() < 0.3,
        "poll_seconds": max(chance.choice((5.0, 60.0, 600.0)), pace / 3),
    }
    works = ("transfers", "lists", "churn", "names", "trees", "sheets", "notes")
    return Setup(
        devices,
        tuple(sorted(chance.sample(works, chance.randrange(1, len(works) + 1)))),
        tuple(
            round(chance.uniform(-wrong, wrong), 3) + (_YEAR if is_far_ahead and device == 0 else 0)
            for device in range(devices)
        ),
        tuple(chance.choice((1.0, 1.0, 1.0001, 0.9999)) for _ in range(devices)),
        settings,
        capabilities,
        horizon and horizon / _DAY,
        chance.choice((None, None, max(60.0, pace), 30 * pace + 600)),
        chance.random() < 0.6,
    )


def _weather(chance: random.Random) -> dict[str, Any]:
    """What is late is so by less than any horizon: what arrives after it breaks what a remote promises."""
    if chance.random() < 0.25:
        return {"weather": CALM if chance.random() < 0.5 else Weather(is_up=False)}
    parts = ("lose_request", "lose_answer", "busy", "twice", "late", "small", "again", "lose_hint")
    bad: dict[str, Any] = {name: round(chance.random() ** 2, 2) for name in chance.sample(parts, chance.randrange(1, 4))}
    delay, late = chance.choice((0.001, 0.05, 2.0, 30.0)), chance.choice((30.0, 1000.0, 3000.0))
    return {"weather": Weather(delay=delay, tell=chance.choice((0.0, 0.5, 1.0)), late_s=late, **bad)}


def _crash(chance: random.Random) -> dict[str, Any]:
    commits = chance.choice((0, 0, 1, 2, 5, 1000))
    return {"steps": int(chance.expovariate(1 / 30)), "commits": commits, "away": round(chance.expovariate(1 / 30), 3)}


def _away(chance: random.Random) -> float:
    return round(chance.expovariate(1 / chance.choice((0.5, 30.0, 600.0))), 3)


_FAULTS: dict[str, tuple[float, Callable[[random.Random], dict[str, Any]]]] = {
    "change_weather": (4.0, _weather),
    "crash": (3.0, _crash),
    "close": (1.0, lambda chance: {"away": _away(chance)}),
    "reopen": (1.5, lambda chance: {"away": _away(chance)}),
    "pause": (1.0, lambda chance: {"away": _away(chance)}),
    "upload": (0.7, lambda chance: {"timeout": chance.choice((1.0, 60.0, 3600.0))}),
    "download": (0.7, lambda chance: {"timeout": chance.choice((1.0, 60.0, 3600.0))}),
    "progress": (0.7, lambda chance: {"direction": chance.choice(list(Direction))}),
    "follow": (0.7, lambda chance: {"away": chance.choice((1.0, 60.0, 3600.0))}),
    "reconnect": (0.5, lambda chance: {}),
    "restart_remote": (2.0, lambda chance: {}),
    "step_clock": (
        0.5,
        lambda chance: {"seconds": round(chance.uniform(-1, 1) * chance.choice((1.0, 100.0, 5000.0, _YEAR)), 3)},
    ),
    "upgrade": (1.0, lambda chance: {"away": _away(chance)}),
    "write_together": (4.0, lambda chance: {}),
}
"""How often each befalls a device, and what there is to be said about it."""

_USERS: dict[str, tuple[float, Callable[[random.Random], dict[str, Any]]]] = {
    "expire_tokens": (1.0, lambda chance: {}),
    "log_out": (1.0, lambda chance: {"away": _away(chance)}),
    "shut_out": (0.3, lambda chance: {"away": _away(chance)}),
}
"""The same where there are users."""

_PARTINGS: dict[str, tuple[float, Callable[[random.Random], dict[str, Any]]]] = {
    "back_up": (1.0, lambda chance: {}),
    "restore": (1.0, lambda chance: {"away": _away(chance)}),
    "copy": (1.0, lambda chance: {"to": chance.randrange(5), "away": _away(chance)}),
    "wipe_remote": (0.4, lambda chance: {}),
    "back_up_remote": (0.7, lambda chance: {}),
    "restore_remote": (0.7, lambda chance: {}),
    "trim_history": (0.7, lambda chance: {}),
    "ask_for_reset": (0.3, lambda chance: {}),
}
"""The same of what makes a device and the remote part, so that a client reset is needed. Half of the runs have none of it."""
