"""Runs whose plans are written out: what seeds came across once, and what must be tried whatever seeds come across."""

from __future__ import annotations

from typing import Any

from tests.simulation.plan import Op, Plan, Setup
from tests.simulation.weather import CALM, Weather
from tests.simulation.world import Outcome, run

DAY = 86_400.0
NO_NETWORK = Weather(is_up=False)
NO_HINTS = Weather(lose_hint=1.0)
LATE_HINTS = Weather(late=1.0, late_s=30.0)


def outcome(*ops: Op, works: tuple[str, ...], devices: int = 3, **setup: Any) -> Outcome:
    settings = {"synchronous": "NORMAL", "client_maximum_offline_time": 30 * DAY, "max_clock_drift": 300.0}
    settings |= {"backoff_initial": 1.0, "backoff_max": 10.0}
    capabilities = {"watch": True, "ping": False, "snapshots": False, "poll_seconds": 5000.0}
    ready = {
        "offsets": (0.0,) * devices,
        "rates": (1.0,) * devices,
        "settings": settings,
        "capabilities": capabilities,
        **setup,
    }
    return run(Plan(1, Setup(devices, works, **ready), ops))


def write(at: float, device: int, work: str = "lists") -> Op:
    return Op(at, "write", device, int(at), {"work": work})


def weather(at: float, device: int, weather: Weather) -> Op:
    return Op(at, "change_weather", device, 0, {"weather": weather})


def test_what_a_hint_brings_is_not_taken_where_the_hint_before_it_was_lost() -> None:
    lost = [weather(20, 0, NO_HINTS), write(30, 1), weather(40, 0, CALM)]
    assert outcome(write(10, 1), *lost, write(50, 1), write(60, 2), works=("lists",), brings_news=True).failure is None


def test_what_a_hint_brings_does_no_harm_when_it_comes_late_and_out_of_order() -> None:
    late = [weather(20, 0, LATE_HINTS), *(write(30 + place, 1 + place % 2) for place in range(20)), weather(60, 0, CALM)]
    assert outcome(write(10, 1), *late, write(70, 1), works=("lists",), brings_news=True).failure is None


def test_what_was_told_of_a_history_does_no_harm_after_the_remote_was_wiped() -> None:
    late = [weather(20, 0, LATE_HINTS), write(30, 1), write(31, 2)]
    wiped = Op(31.5, "wipe_remote", 0, 0)
    assert outcome(write(10, 1), *late, wiped, write(33, 1), write(40, 2), works=("lists",), brings_news=True).failure is None


def test_a_copied_file_may_take_its_twin_s_changesets_for_its_own_until_that_is_noticed() -> None:
    apart = [weather(13, 2, NO_NETWORK), write(17, 1), Op(20, "copy", 1, 0, {"to": 2, "away": 0.1})]
    assert outcome(*apart, write(54, 2), write(56, 1), write(71, 0), works=("lists",)).failure is None


def test_devices_whose_application_is_older_sync_with_newer_ones() -> None:
    works = [write(place, place % 3, "notes") for place in range(10, 60)]
    upgraded = Op(30.5, "upgrade", 0, 0, {"away": 0.1})
    ops = sorted([*works, upgraded], key=lambda op: op.at)
    assert outcome(*ops, works=("notes",)).failure is None


def test_what_is_written_a_year_ahead_is_to_be_seen_when_its_time_has_come() -> None:
    writes = [write(place, place % 3, "churn") for place in range(10, 40)]
    assert outcome(*writes, works=("churn",), offsets=(365 * DAY, 0.0, 0.0)).failure is None


def test_what_was_paused_stays_so_whoever_logs_in() -> None:
    ops = [Op(10, "pause", 0, 0, {"away": 100.0}), Op(20, "log_out", 0, 0, {"away": 5.0}), write(40, 1)]
    assert outcome(write(5, 0), *ops, works=("lists",), access_seconds=600.0).failure is None


def test_who_reads_slowly_is_told_and_the_others_are_not_held_up() -> None:
    away = [weather(20, 0, NO_NETWORK), write(25, 0), weather(900, 0, CALM), write(910, 1)]
    slow = [Op(10, "follow", 0, 0, {"away": 600.0}), Op(11, "follow", 0, 0, {"away": 5.0})]
    assert outcome(write(5, 0), *slow, *away, works=("lists",)).failure is None


def test_a_realm_that_is_opened_again_while_it_uploads_has_the_same_session() -> None:
    late = weather(10, 0, Weather(delay=30.0))
    ops = [write(20, 0), write(21, 0), Op(21.5, "reopen", 0, 0, {"away": 0.5}), write(25, 0), write(30, 1)]
    done = outcome(write(5, 0), late, *ops, works=("lists",))
    assert done.failure is None
    assert any("opens its realm again, with the same session" in line for line in done.last)


def test_a_realm_that_is_opened_again_with_nothing_to_upload_has_a_new_session() -> None:
    done = outcome(write(5, 0), Op(20, "reopen", 0, 0, {"away": 0.5}), write(25, 0), works=("lists",))
    assert done.failure is None
    assert any("opens its realm again, with a new session" in line for line in done.last)


def test_what_comes_again_in_a_page_does_no_harm() -> None:
    again = [weather(8, device, Weather(again=1.0)) for device in range(3)]
    writes = [write(10 + place, place % 3, work) for place, work in enumerate(("transfers", "lists") * 10)]
    assert outcome(*again, *writes, works=("transfers", "lists"), brings_news=False).failure is None


def test_a_copy_that_only_reads_notices_its_twin_when_it_connects() -> None:
    ops = [Op(10, "copy", 0, 0, {"to": 1, "away": 0.5}), *(write(20 + place, 1) for place in range(5))]
    assert outcome(write(5, 0), *ops, works=("lists",), brings_news=True).failure is None
