"""The conformance suite itself: a sound adapter passes, each planted bug fails the rule that is about it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from localstore.testing.conformance import AdapterConformance

BROKEN = Path(__file__).with_name("broken_remotes.py")

CAUGHT_BY = {
    "TestNoDedup": {"test_push_twice_stores_once", "test_any_history_gives_what_the_model_says"},
    "TestSkipsOne": {"test_pages_join_without_gap_or_repeat"},
    "TestAcknowledges": {
        "test_every_call_says_offline_when_the_remote_is_out_of_reach",
        "test_a_gap_in_the_numbers_asks_for_a_reset",
        "test_a_remote_replaced_under_an_open_line_acknowledges_and_serves_nothing",
    },
    "TestForgets": {
        "test_a_pushed_batch_is_acknowledged_and_reaches_others",
        "test_welcome_tells_the_highest_number_of_this_device",
    },
    "TestNotAtomic": {"test_a_push_cancelled_at_any_wait_leaves_all_or_nothing_of_each_changeset"},
    "TestTakesAnyCursor": {"test_an_unknown_cursor_asks_for_a_reset", "test_a_cursor_of_a_replaced_remote_is_unknown"},
    "TestSpansWhatIsTrimmed": {"test_a_device_that_lacks_what_was_trimmed_is_told_so_and_served_nothing"},
    "TestNeverMore": {"test_a_page_holds_one_changeset_at_least_whatever_its_size"},
    "TestReorders": {"test_every_device_comes_in_the_order_of_its_numbers"},
    "TestOneHistory": {"test_partitions_do_not_mix"},
    "TestAlwaysAlive": {
        "test_a_remote_out_of_reach_answers_no_ping",
        "test_a_line_that_is_not_connected_answers_no_ping",
    },
    "TestTrimsBlindly": {"test_two_devices_that_let_go_at_once_leave_a_snapshot_that_one_can_go_on_from"},
    "TestHalfSnapshots": {
        "test_others_push_and_pull_while_a_snapshot_is_written",
        "test_a_snapshot_that_breaks_off_leaves_the_one_before",
    },
    "TestNeverHints": {"test_a_hint_comes_after_another_device_has_pushed"},
}
USERS_CAUGHT_BY = {
    "TestChecksOnlyOnce": {"test_an_expired_token_is_refused_on_new_lines_and_on_those_that_are_connected"},
    "TestNeverRotates": {
        "test_a_refresh_gives_two_new_tokens_of_the_same_user",
        "test_a_refresh_token_is_refused_once_its_successor_was_used",
    },
    "TestStaysLoggedIn": {"test_after_logging_out_no_token_is_good"},
    "TestTellsThePassword": {"test_wrong_credentials_are_unauthorized_and_not_quoted"},
}


def failed_rules(report: Path) -> dict[str, set[str]]:
    """The rules that failed, by class, in a process of its own; the sound adapter goes through all rules that are named."""
    sound = {"TestSound": set().union(*CAUGHT_BY.values()), "TestSoundUsers": set().union(*USERS_CAUGHT_BY.values())}
    chosen = {**CAUGHT_BY, **USERS_CAUGHT_BY, **sound}
    nodes = [f"{BROKEN}::{bug}::{rule}" for bug, rules in chosen.items() for rule in sorted(rules)]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", f"--junitxml={report}", *nodes]
    environment = {**os.environ, "CI": "true"}  # makes hypothesis repeatable
    finished = subprocess.run(command, cwd=BROKEN.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode in (0, 1), finished.stdout + finished.stderr
    failed: dict[str, set[str]] = defaultdict(set)
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None:
            failed[case.attrib["classname"].rpartition(".")[2]].add(case.attrib["name"].partition("[")[0])
    return failed


def test_every_planted_bug_is_caught_and_a_sound_adapter_passes(tmp_path: Path) -> None:
    """One test, as each process that runs a part of the tests would have to go through all rules again."""
    failed = failed_rules(tmp_path / "report.xml")
    assert failed["TestSound"] | failed["TestSoundUsers"] == set()
    missed = {bug: rules - failed[bug] for bug, rules in {**CAUGHT_BY, **USERS_CAUGHT_BY}.items()}
    assert {bug: rules for bug, rules in missed.items() if rules} == {}


class Undeclared(AdapterConformance):
    powers = frozenset({"watch"})
    skips = frozenset({"refuse"})


def test_a_rule_whose_power_is_missing_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="lacks the power 'offline'"):
        Undeclared().need("offline")
    Undeclared().need("watch")


def test_a_skip_that_was_not_declared_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="neither claims the power 'offline' nor declares in 'skips'"):
        Undeclared().need("offline")
    with pytest.raises(pytest.skip.Exception):
        Undeclared().need("refuse")
