"""Merging: what one change does to one row, as a pure function. Every replica runs the same one.

Versions are ``(stamp, device)`` and totally ordered. The rules:

* An insert begins a *life* of the row, named by the insert's version. A delete ends every life that is older than itself.
  The row is there as long as a life is left.
* A change of a column belongs to the latest life that its writer had seen. When that life has ended, the change is void,
  whatever its stamp: a delete beats every update, and a row inserted again holds only what it brought.
* Of the changes left to a column, the one with the highest version wins; values of one life become one by the column's rule
  where it declares another (``store.column_rules``).

Two devices may insert the same key without knowing of each other; then two lives run side by side and their columns merge
one by one. A delete that knew only of the older life may still arrive, so a column keeps, beside its winner, every value
that would win if older lives ended (*runners-up*). In all other cases there is one life and nothing but winners.

Rows from before their table was synced (*seeds*) are inserts with stamp 0: older than every change and every delete. As they
end together, their lives count as one, which every writer knew: it had that row itself, or a later life.

An insert by a schema that lacks a column brings the column's default, as something older than every change.

All of it is maxima and thresholds, so the order of arrival cannot matter, as long as each change comes after those its
writer had seen. This module touches neither clock nor database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from localstore.changes import Change, Op, Value
from localstore.clock import Version
from localstore.store.column_rules import ColumnRule

__all__ = ["LONG_AGO", "PURGED", "Candidate", "Lost", "Mark", "Merged", "RowState", "life_of", "merge"]

LONG_AGO: Version = (0, b"")
"""Older than every change: the version of defaults, and of what was there before sync."""
PURGED: Version = (1, b"")
"""The life of a row whose clock was forgotten: newer than all that is from before sync, older than every other change. Every
writer knew it, as clocks are forgotten only then."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Who set a column: the change's version and the life it belongs to."""

    version: Version
    life: Version

    @property
    def rank(self) -> tuple[Version, Version]:
        """The highest wins. Lives decide only between defaults, which have all the same version."""
        return (self.version, self.life)


def life_of(version: Version) -> Version:
    """How marks name the life that an insert of this version began: seeds' lives all alike."""
    return version if version[0] else LONG_AGO


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value that could win a column when the winner's life ends."""

    mark: Mark
    value: Value


@dataclass(slots=True)
class RowState:
    """The clock of a row.

    Attributes:
        lives: versions of the inserts that no delete has ended, oldest first; empty when the row is not there.
        died: the latest delete.
        marks: winners of the columns that were not set by the latest life's insert.
        runners_up: by column, see the module.
    """

    lives: tuple[Version, ...] = ()
    died: Version | None = None
    marks: dict[str, Mark] = field(default_factory=dict)
    runners_up: dict[str, tuple[Candidate, ...]] = field(default_factory=dict)

    @property
    def says_something(self) -> bool:
        """Whether it says more than no clock would."""
        return self.died is not None or bool(self.marks) or self.lives not in ((), (PURGED,))

    def mark(self, column: str) -> Mark:
        """Who set a column of a row that is there."""
        return self.marks.get(column) or Mark(self.lives[-1], life_of(self.lives[-1]))


@dataclass(frozen=True, slots=True)
class Lost:
    """A value that had to give way. It can still be read until the writes are carried out.

    Attributes:
        column: where it was.
        mark: who set it.
    """

    column: str
    mark: Mark


@dataclass(slots=True)
class Merged:
    """What a change did to a row.

    Attributes:
        writes: columns that have a new value.
        lost: values that had to give way.
    """

    writes: dict[str, Value] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)


Saw = Callable[[Version], bool]
"""Whether a change's writer had seen the change of this version."""
Current = Callable[[str], Value]
"""The value of a column as it is now."""
_NO_RULES: Mapping[str, ColumnRule] = {}


def merge(
    state: RowState,
    change: Change,
    version: Version,
    saw: Saw,
    current: Current,
    defaults: Mapping[str, Value],
    rules: Mapping[str, ColumnRule] = _NO_RULES,
) -> Merged:
    """Take a change into a row.

    Args:
        state: the row's clock; changed in place.
        change: what happened to the row.
        version: of the changeset it belongs to.
        saw: what the writer knew.
        current: reads the row's values; called only where they may be lost.
        defaults: all columns of the table but the key, each with what it holds when an insert does not bring it.
        rules: of those columns in which it is not the last write that wins.
    """
    result = Merged()
    if change.op in (Op.DELETE, Op.REPLACE):
        _end_lives(state, version, defaults, result)
    if change.op in (Op.INSERT, Op.REPLACE, Op.SEED):
        _begin_life(state, change, version, current, defaults, result)
    elif change.op is Op.UPDATE:
        lives = [life_of(life) for life in state.lives if not life[0] or (version[0] and (life == PURGED or saw(life)))]
        if lives:  # a seed's part that had to wait for its column is an update with stamp 0
            for column, value in change.values.items():
                offered = Candidate(Mark(version, max(lives)), value)
                if column in rules and state.mark(column).life == offered.mark.life:
                    _combine(state, column, offered, current, result, rules[column])
                else:
                    _offer(state, column, offered, current, result)
    return result


def _begin_life(
    state: RowState, change: Change, version: Version, current: Current, defaults: Mapping[str, Value], result: Merged
) -> None:
    if (state.died is not None and version < state.died) or version in state.lives:
        return
    if not state.lives:
        state.lives = (version,)
        result.writes.update({**defaults, **change.values})
        for column in defaults:
            if column not in change.values:  # written by a schema without it: anything that sets it is newer
                state.marks[column] = Mark(LONG_AGO, life_of(version))
        return
    if version > state.lives[-1]:  # the columns' unwritten mark is about to mean this life: write down what it meant before
        for column in defaults:
            state.marks.setdefault(column, state.mark(column))
    state.lives = tuple(sorted((*state.lives, version)))
    for column, default in defaults.items():
        brought = column in change.values
        life = life_of(version)
        value, mark = (change.values[column], Mark(version, life)) if brought else (default, Mark(LONG_AGO, life))
        _offer(state, column, Candidate(mark, value), current, result)


def _end_lives(state: RowState, version: Version, defaults: Mapping[str, Value], result: Merged) -> None:
    if state.died is not None and version <= state.died:
        return
    state.died = version
    ended = [life for life in state.lives if life < version]
    if not ended:
        return
    before = [(column, state.mark(column)) for column in defaults]
    state.lives = tuple(life for life in state.lives if life >= version)
    for column, mark in before:
        if mark.life >= version:
            continue
        result.lost.append(Lost(column, mark))
        if state.lives:
            _promote(state, column, result)
    if not state.lives:
        state.marks.clear()
        state.runners_up.clear()


def _promote(state: RowState, column: str, result: Merged) -> None:
    """Give a column to the best runner-up whose life goes on: there is one, as the latest life has always one or the winner."""
    left = [candidate for candidate in state.runners_up.pop(column) if candidate.mark.life in state.lives]
    winner = max(left, key=lambda candidate: candidate.mark.rank)
    state.marks[column] = winner.mark
    result.writes[column] = winner.value
    _keep_runners_up(state, column, [candidate for candidate in left if candidate is not winner])


def _offer(state: RowState, column: str, offered: Candidate, current: Current, result: Merged) -> None:
    """Let a value compete for a column."""
    mark = state.mark(column)
    rivals = state.runners_up.get(column, ())
    if offered.mark.rank <= mark.rank:
        if offered.mark.life > mark.life and not any(_dominates(rival.mark, offered.mark) for rival in rivals):
            _keep_runners_up(state, column, [*rivals, offered])
        return
    result.lost.append(Lost(column, mark))
    if mark.life > offered.mark.life:  # it would win again if the offered value's life ended
        value = result.writes[column] if column in result.writes else current(column)
        rivals = (*rivals, Candidate(mark, value))
    result.writes[column] = offered.value
    state.marks[column] = offered.mark
    if rivals:
        _keep_runners_up(state, column, [*rivals])


def _combine(state: RowState, column: str, offered: Candidate, current: Current, result: Merged, rule: ColumnRule) -> None:
    """Let a rule make one value of a column's own and another of the same life. So neither is lost."""
    is_later = offered.mark.version > state.mark(column).version
    result.writes[column] = rule(current(column), offered.value, is_later=is_later)
    if is_later:
        state.marks[column] = offered.mark


def _keep_runners_up(state: RowState, column: str, candidates: list[Candidate]) -> None:
    """Keep those that the winner does not beat in version and life both, nor another candidate."""
    marks = [state.mark(column), *(candidate.mark for candidate in candidates)]
    kept = tuple(c for c in candidates if not any(mark != c.mark and _dominates(mark, c.mark) for mark in marks))
    if kept:
        state.runners_up[column] = kept
    else:
        state.runners_up.pop(column, None)


def _dominates(one: Mark, other: Mark) -> bool:
    return one.version >= other.version and one.life >= other.life
