"""What a client reset does, cell by cell, and that an attempt which did not help is not made again."""

from __future__ import annotations

import itertools

import pytest

from localstore.client_reset import ClientReset, Discard, Manual, Recover, RecoverOrDiscard, SeedRemote
from localstore.reasons import ResetReason
from localstore.sync.reset_rules import FIRST, LOST_BY_REMOTE, NEXT, WITHOUT_RECOVERY, Attempt, Mode, decide

STRATEGIES: dict[str, ClientReset] = {
    "Discard": Discard(),
    "Recover": Recover(),
    "RecoverOrDiscard": RecoverOrDiscard(),
    "SeedRemote": SeedRemote(),
}
LOOPS = """
             Discard  Recover  RecoverOrDiscard  SeedRemote
    discard  fail     fail     fail              fail
    recover  discard  fail     discard           fail
    seed     discard  fail     discard           fail
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
) -> str:
    attempt = None if last is None else Attempt(Mode(last), last_may_recover, "1")
    found = decide(STRATEGIES[strategy], kind, may_recover=may_recover, version=version, last=attempt)
    return found.value if isinstance(found, Mode) else "fail"


@pytest.mark.parametrize(("last", "strategy", "expected"), cells(LOOPS))
def test_after_an_attempt_that_was_not_confirmed(last: str, strategy: str, expected: str) -> None:
    assert decided(strategy, last=last) == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("last", [mode.value for mode in Mode])
def test_an_attempt_of_another_version_or_action_is_no_loop(last: str, strategy: str) -> None:
    assert decided(strategy, last=last, version="2") == decided(strategy)
    assert decided(strategy, last=last, last_may_recover=False) == decided(strategy)


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
    assert set(NEXT) == set(itertools.product(Mode, kinds))


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
