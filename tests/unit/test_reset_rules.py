"""What a client reset does, cell by cell, and that an attempt which did not help is not made again."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from localstore.client_reset import ClientReset, Discard, Manual, Recover, RecoverOrDiscard, SeedRemote
from localstore.errors import SchemaMismatch, StoreDamaged
from localstore.reasons import ResetReason
from localstore.store.failures import failure
from localstore.store.stored import read_sealed
from localstore.sync.reset_rules import FIRST, LOST_BY_REMOTE, NEXT, WITHOUT_RECOVERY, Attempt, End, Mode, decide
from localstore.sync.reset_steps import speaks_against

STRATEGIES: dict[str, ClientReset] = {
    "Discard": Discard(),
    "Recover": Recover(),
    "RecoverOrDiscard": RecoverOrDiscard(),
    "SeedRemote": SeedRemote(),
}
IN_VAIN = """
             Discard  Recover  RecoverOrDiscard  SeedRemote
    discard  fail     fail     fail              fail
    recover  discard  fail     discard           fail
    seed     discard  fail     discard           fail
"""
FAILED = """
             Discard  Recover  RecoverOrDiscard  SeedRemote
    discard  discard  recover  discard           seed
    recover  discard  recover  discard           seed
    seed     discard  recover  discard           seed
"""
BROKEN_OFF = """
             Discard  Recover  RecoverOrDiscard  SeedRemote
    discard  discard  recover  discard           seed
    recover  discard  recover  recover           seed
    seed     discard  recover  recover           seed
"""
WIPED = ResetReason.REMOTE_REPLACED


def cells(table: str) -> list[tuple[str, str, str]]:
    (_, *names), *rows = [["", *line.split()] if n == 0 else line.split() for n, line in enumerate(table.strip().splitlines())]
    return [(last, name, cell) for last, *found in rows for name, cell in zip(names, found, strict=True)]


def decided(
    strategy: str,
    *,
    kind: ResetReason = WIPED,
    may_recover: bool = True,
    last: str | None = None,
    last_may_recover: bool = True,
    version: str = "1",
    end: End = End.IN_VAIN,
) -> str:
    attempt = None if last is None else Attempt(Mode(last), last_may_recover, "1", end)
    found = decide(STRATEGIES[strategy], kind, may_recover=may_recover, version=version, last=attempt)
    return found.value if isinstance(found, Mode) else "fail"


@pytest.mark.parametrize(("last", "strategy", "expected"), cells(IN_VAIN))
def test_after_an_attempt_that_did_not_help(last: str, strategy: str, expected: str) -> None:
    assert decided(strategy, last=last) == expected


@pytest.mark.parametrize(("last", "strategy", "expected"), cells(FAILED))
def test_after_an_attempt_that_could_not_be_carried_out(last: str, strategy: str, expected: str) -> None:
    assert decided(strategy, last=last, end=End.FAILED) == expected


@pytest.mark.parametrize(("last", "strategy", "expected"), cells(BROKEN_OFF))
def test_after_an_attempt_that_did_not_come_to_change_anything(last: str, strategy: str, expected: str) -> None:
    assert decided(strategy, last=last, end=End.BROKEN_OFF) == expected


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("last", [mode.value for mode in Mode])
def test_an_attempt_of_another_version_or_action_does_not_count(last: str, strategy: str, end: End) -> None:
    assert decided(strategy, last=last, version="2", end=end) == decided(strategy)
    assert decided(strategy, last=last, last_may_recover=False, end=end) == decided(strategy)


@pytest.mark.parametrize(("end", "last", "strategy"), [*itertools.product(End, Mode, STRATEGIES)])
def test_what_the_remote_does_not_allow_is_not_done_whatever_was_tried_before(end: End, last: Mode, strategy: str) -> None:
    found = decided(strategy, may_recover=False, last=last.value, last_may_recover=False, end=end)
    assert found in ("discard", "fail")


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("Discard", "discard"), ("Recover", "fail"), ("RecoverOrDiscard", "discard"), ("SeedRemote", "fail")],
)
def test_where_the_remote_allows_no_recovery(strategy: str, expected: str) -> None:
    assert decided(strategy, may_recover=False) == expected


@pytest.mark.parametrize("kind", ResetReason)
def test_the_first_attempt(kind: ResetReason) -> None:
    found = [decided(strategy, kind=kind) for strategy in STRATEGIES]
    assert found == ["discard", "recover", "recover", "seed" if kind in LOST_BY_REMOTE else "recover"]


def test_only_a_remote_that_lost_its_data_is_filled_again() -> None:
    assert {kind for kind in ResetReason if decided("SeedRemote", kind=kind) == "seed"} == {
        ResetReason.REMOTE_REPLACED,
        ResetReason.REMOTE_RESTORED,
        ResetReason.UNKNOWN_CURSOR,
    }


def test_the_tables_have_every_cell() -> None:
    kinds = {type(strategy) for strategy in STRATEGIES.values()}
    assert set(FIRST) == set(WITHOUT_RECOVERY) == kinds
    assert set(NEXT) == set(itertools.product(End, Mode))
    assert {frozenset(row) for row in NEXT.values()} == {frozenset(kinds)}


@pytest.mark.parametrize(("end", "last", "strategy"), [*itertools.product([End.BROKEN_OFF, End.FAILED], Mode, STRATEGIES)])
def test_what_changed_nothing_is_never_the_end(end: End, last: Mode, strategy: str) -> None:
    assert decided(strategy, last=last.value, end=end) != "fail"


def test_no_strategy_goes_round_for_ever() -> None:
    """Whatever the remote says, a third attempt fails."""
    for strategy, may_recover in itertools.product(STRATEGIES, [True, False]):
        last: str | None = None
        found = []
        for _ in range(3):
            found.append(decided(strategy, may_recover=may_recover, last=last, last_may_recover=may_recover))
            if found[-1] == "fail":
                break
            last = found[-1]
        assert found[-1] == "fail", (strategy, found)


def test_manual_has_nothing_to_decide() -> None:
    with pytest.raises(TypeError):
        decide(Manual(on_client_reset=print), WIPED, may_recover=True, version="1", last=None)


@pytest.mark.parametrize("kind", ResetReason)
def test_a_reason_in_words_says_its_kind(kind: ResetReason) -> None:
    assert ResetReason.of(kind.value) is kind
    assert ResetReason.of(f"{kind.value} (in other words)") is kind
    assert ResetReason.of("nobody knows") is ResetReason.OTHER


def test_a_read_that_failed_says_nothing_against_bringing_changes_along() -> None:
    unread = failure("SQLITE_CORRUPT", "database disk image is malformed", Path("tasks.db"), writing=True)
    assert isinstance(unread, StoreDamaged)
    assert not speaks_against(unread)


def test_a_changeset_that_is_damaged_speaks_against_it() -> None:
    with pytest.raises(StoreDamaged) as raised:
        read_sealed(b"rubbish")
    assert speaks_against(raised.value)
    assert speaks_against(SchemaMismatch("What the remote has does not fit."))
