"""What a series of touches amounts to, and row changes taken out of their groups."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.changes import Change, Changeset, Op, RowGroup, Touch, coalesce, row_changes

INSERT, UPDATE, DELETE, REPLACE = Op.INSERT, Op.UPDATE, Op.DELETE, Op.REPLACE
KEY = ("k",)


@pytest.mark.parametrize(
    ("touches", "result"),
    [
        ([], None),
        # absent before
        ([(INSERT, 0)], (INSERT, 0)),
        ([(INSERT, 0), (UPDATE, 3)], (INSERT, 0)),
        ([(INSERT, 0), (DELETE, 0)], None),
        ([(INSERT, 0), (UPDATE, 1), (DELETE, 0)], None),
        ([(INSERT, 0), (DELETE, 0), (INSERT, 0)], (INSERT, 0)),
        ([(INSERT, 0), (DELETE, 0), (INSERT, 0), (UPDATE, 1)], (INSERT, 0)),
        ([(INSERT, 0), (DELETE, 0), (INSERT, 0), (DELETE, 0)], None),
        # absent before, though an update comes first: it is part of what brought the row
        ([(UPDATE, 1), (INSERT, 0)], (INSERT, 0)),
        ([(UPDATE, 1), (INSERT, 0), (DELETE, 0), (INSERT, 0)], (INSERT, 0)),
        # present before
        ([(UPDATE, 1)], (UPDATE, 1)),
        ([(UPDATE, 1), (UPDATE, 4)], (UPDATE, 5)),
        ([(UPDATE, 1), (UPDATE, 1)], (UPDATE, 1)),
        ([(UPDATE, 0)], (UPDATE, 0)),
        ([(DELETE, 0)], (DELETE, 0)),
        ([(UPDATE, 1), (DELETE, 0)], (DELETE, 0)),
        ([(DELETE, 0), (INSERT, 0)], (REPLACE, 0)),
        ([(DELETE, 0), (INSERT, 0), (UPDATE, 2)], (REPLACE, 0)),
        ([(UPDATE, 1), (DELETE, 0), (INSERT, 0)], (REPLACE, 0)),
        ([(DELETE, 0), (INSERT, 0), (DELETE, 0)], (DELETE, 0)),
        ([(DELETE, 0), (INSERT, 0), (DELETE, 0), (INSERT, 0)], (REPLACE, 0)),
    ],
)
def test_touches_of_one_row_coalesce(touches: list[tuple[Op, int]], result: tuple[Op, int] | None) -> None:
    expected = {} if result is None else {KEY: result}
    exists = {KEY} if result and result[0] is not DELETE else set()
    assert coalesce([Touch(op, KEY, mask) for op, mask in touches], exists) == expected


def test_rows_do_not_mix_and_keep_the_order_of_their_first_touch() -> None:
    touches = [
        Touch(UPDATE, (2,), 1),
        Touch(INSERT, (1,)),
        Touch(DELETE, (3,)),
        Touch(UPDATE, (2,), 2),
        Touch(INSERT, (4,)),
        Touch(DELETE, (4,)),
    ]
    assert list(coalesce(touches, {(1,), (2,)}).items()) == [((2,), (UPDATE, 3)), ((1,), (INSERT, 0)), ((3,), (DELETE, 0))]


def test_masks_are_wider_than_a_machine_word() -> None:
    assert coalesce([Touch(UPDATE, KEY, 1 << 200), Touch(UPDATE, KEY, 1)], {KEY}) == {KEY: (UPDATE, (1 << 200) | 1)}


class Row:
    """An independent model: a row that exists or not, and what became of it, worked out by looking, not by remembering."""

    def __init__(self, exists: bool) -> None:
        self.existed = self.exists = exists
        self.was_deleted = False
        self.columns: set[int] = set()

    def steps(self) -> list[Op]:
        return [UPDATE, DELETE] if self.exists else [INSERT]

    def step(self, op: Op, column: int) -> Touch:
        if op is UPDATE:
            self.columns.add(column)
            return Touch(UPDATE, KEY, 1 << column)
        self.exists = op is INSERT
        self.was_deleted |= op is DELETE
        return Touch(op, KEY)

    def outcome(self) -> dict[tuple[str], tuple[Op, int]]:
        match (self.existed, self.exists):
            case (False, False):
                return {}
            case (False, True):
                return {KEY: (INSERT, 0)}
            case (True, False):
                return {KEY: (DELETE, 0)}
        return {KEY: (REPLACE, 0) if self.was_deleted else (UPDATE, sum(1 << column for column in self.columns))}


@pytest.mark.parametrize(
    ("touches", "in_doubt"),
    [([(INSERT, 0)], True), ([(UPDATE, 1)], True), ([(INSERT, 0), (DELETE, 0)], True), ([(DELETE, 0)], True), ([], False)],
)
def test_where_deletes_may_be_missing_a_row_that_is_not_there_counts_as_deleted(
    touches: list[tuple[Op, int]], in_doubt: bool
) -> None:
    found = coalesce([Touch(op, KEY, mask) for op, mask in touches], set(), delete_if_in_doubt=True)
    assert found == ({KEY: (DELETE, 0)} if in_doubt else {})


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 1), st.integers(0, 70)), min_size=1, max_size=12), st.randoms())
def test_any_life_of_a_row_coalesces_to_what_became_of_it_in_any_order(
    existed: bool, choices: list[tuple[int, int]], order: random.Random
) -> None:
    row = Row(existed)
    touches = []
    for choice, column in choices:
        steps = row.steps()
        touches.append(row.step(steps[choice % len(steps)], column))
    order.shuffle(touches)
    assert coalesce(touches, {KEY} if row.exists else set()) == row.outcome()


def test_row_changes_takes_a_group_apart() -> None:
    group = RowGroup("note", UPDATE, ("a", "b"), ("text", "mark"), [[1, 2], ["x", "y"], ["one", None], [b"", 2.5]])
    assert list(row_changes(group)) == [
        Change(UPDATE, (1, "x"), {"text": "one", "mark": b""}),
        Change(UPDATE, (2, "y"), {"text": None, "mark": 2.5}),
    ]
    assert group.row_count == 2


def test_row_changes_of_deletes_have_keys_only() -> None:
    group = RowGroup("note", DELETE, ("id",), (), [[1, 2]])
    assert list(row_changes(group)) == [Change(DELETE, (1,), {}), Change(DELETE, (2,), {})]


def test_a_changeset_counts_its_rows_and_knows_its_place() -> None:
    groups = (RowGroup("note", DELETE, ("id",), (), [[1, 2]]), RowGroup("other", INSERT, ("id",), (), [[1]]))
    changeset = Changeset(b"d" * 16, 4, 99, (), groups)
    assert changeset.row_count == 3
    assert changeset.version == (99, b"d" * 16)
