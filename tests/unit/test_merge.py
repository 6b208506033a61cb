"""Merging one row: the rules one by one, and all replicas against a model that knows nothing of how merging works."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from localstore.changes import Change, Op, Value
from localstore.clock import Version
from localstore.store.merge import LONG_AGO, Lost, Mark, Merged, RowState, merge
from tests.properties import for_all
from tests.unit.store_kit import Row, clock_of

COLUMNS = ("a", "b")
DEFAULTS: Row = {"a": "default a", "b": "default b"}  # what a column holds that an insert did not bring


@dataclass(frozen=True)
class Write:
    """A change with its version and the versions of all changes that its writer had seen."""

    op: Op
    version: Version
    seen: frozenset[Version]
    values: tuple[tuple[str, Value], ...] = ()

    @property
    def change(self) -> Change:
        return Change(self.op, ("key",), dict(self.values))


@dataclass
class Replica:
    """A row as one device has it: the state that ``merge`` keeps, and the values that it says to write."""

    state: RowState = field(default_factory=RowState)
    row: Row | None = None
    seen: set[Version] = field(default_factory=set)

    def take(self, write: Write) -> Merged:
        before = self.state.lives
        merged = merge(self.state, write.change, write.version, write.seen.__contains__, self.value, DEFAULTS)
        if not self.state.lives:
            self.row = None
        else:
            if not set(before) & set(self.state.lives):
                self.row = dict(DEFAULTS)
            assert self.row is not None
            self.row.update(merged.writes)
        self.seen.add(write.version)
        return merged

    def value(self, column: str) -> Value:
        assert self.row is not None
        return self.row[column]

    def can_take(self, write: Write) -> bool:
        return write.version not in self.seen and write.seen <= self.seen


def row_of(writes: Sequence[Write]) -> Row | None:
    """The oracle: what a set of changes amounts to, straight from the rules, with no notion of an order of arrival."""
    begun = {write.version for write in writes if write.op in (Op.INSERT, Op.REPLACE)}
    ended = max((write.version for write in writes if write.op in (Op.DELETE, Op.REPLACE)), default=LONG_AGO)
    if not any(life >= ended for life in begun):
        return None
    row: Row = dict(DEFAULTS)
    for write in sorted(writes, key=lambda write: write.version):
        life = write.version
        if write.op is Op.UPDATE:
            life = max((life for life in begun if life in write.seen), default=LONG_AGO)
        if write.op is not Op.DELETE and life >= ended:
            row.update(write.values)
    return row


# -- every rule by an example


def version(stamp: int, device: str = "x") -> Version:
    return stamp, device.encode()


def insert(stamp: int, device: str = "x", *, saw: Sequence[Write] = (), **values: Value) -> Write:
    return _write(Op.INSERT, stamp, device, saw, values)


def update(stamp: int, device: str = "x", *, saw: Sequence[Write], **values: Value) -> Write:
    return _write(Op.UPDATE, stamp, device, saw, values)


def delete(stamp: int, device: str = "x", *, saw: Sequence[Write]) -> Write:
    return _write(Op.DELETE, stamp, device, saw, {})


def replace(stamp: int, device: str = "x", *, saw: Sequence[Write], **values: Value) -> Write:
    return _write(Op.REPLACE, stamp, device, saw, values)


def _write(op: Op, stamp: int, device: str, saw: Sequence[Write], values: Row) -> Write:
    seen = frozenset(version for write in saw for version in (write.version, *write.seen))
    return Write(op, version(stamp, device), seen, tuple(values.items()))


def causal_orders(writes: Sequence[Write]) -> Iterator[tuple[Write, ...]]:
    """Every order of arrival in which no change comes before one that its writer had seen."""
    for order in itertools.permutations(writes):
        earlier: set[Version] = set()
        for write in order:
            if not write.seen <= earlier:
                break
            earlier.add(write.version)
        else:
            yield order


def merged_row(*writes: Write) -> Row | None:
    """The row that every order of arrival leads to."""
    outcomes = []
    for order in causal_orders(writes):
        replica = Replica()
        for write in order:
            replica.take(write)
        outcomes.append((replica.row, clock_of(replica.state, COLUMNS)))
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0][0] == row_of(writes)
    return outcomes[0][0]


def test_the_later_of_two_updates_of_a_column_wins() -> None:
    born = insert(1, a=0, b=0)
    assert merged_row(born, update(5, "x", saw=[born], a=5), update(4, "y", saw=[born], a=4)) == {"a": 5, "b": 0}


def test_updates_of_different_columns_both_stay() -> None:
    born = insert(1, a=0, b=0)
    assert merged_row(born, update(5, "x", saw=[born], a=5), update(4, "y", saw=[born], b=4)) == {"a": 5, "b": 4}


def test_an_update_of_two_columns_can_win_one_and_lose_the_other() -> None:
    born = insert(1, a=0, b=0)
    first, second = update(3, "x", saw=[born], a=3, b=3), update(4, "y", saw=[born], a=4)
    assert merged_row(born, first, second) == {"a": 4, "b": 3}


def test_of_equal_stamps_the_greater_device_wins() -> None:
    born = insert(1, a=0, b=0)
    assert merged_row(born, update(5, "x", saw=[born], a="x"), update(5, "y", saw=[born], a="y")) == {"a": "y", "b": 0}


def test_equal_stamps_are_compared_to_the_last_byte_of_the_device() -> None:
    born = insert(1, a=0, b=0)
    first, second = update(5, "same start 1", saw=[born], a=1), update(5, "same start 2", saw=[born], a=2)
    assert merged_row(born, first, second) == {"a": 2, "b": 0}


def test_a_delete_beats_an_update_with_a_later_stamp() -> None:
    born = insert(1, a=0, b=0)
    assert merged_row(born, delete(2, "x", saw=[born]), update(9, "y", saw=[born], a=9)) is None


def test_an_update_of_a_row_that_was_deleted_and_inserted_again_meanwhile_is_void() -> None:
    born = insert(1, a=0, b=0)
    gone = delete(2, saw=[born])
    again = insert(3, saw=[gone], a=3, b=3)
    assert merged_row(born, gone, again, update(9, "y", saw=[born], a=9)) == {"a": 3, "b": 3}


def test_an_update_of_a_row_that_was_replaced_meanwhile_is_void() -> None:
    born = insert(1, a=0, b=0)
    assert merged_row(born, replace(2, "x", saw=[born], a=2, b=2), update(9, "y", saw=[born], a=9)) == {"a": 2, "b": 2}


def test_a_row_inserted_again_holds_only_what_it_brought() -> None:
    born = insert(1, a=0, b=0)
    changed = update(2, saw=[born], b=2)
    gone = delete(3, saw=[changed])
    assert merged_row(born, changed, gone, insert(4, saw=[gone], a=4)) == {"a": 4, "b": "default b"}


def test_a_replaced_row_holds_only_what_it_brought() -> None:
    born = insert(1, a=0, b=0)
    assert merged_row(born, replace(2, saw=[born], a=2)) == {"a": 2, "b": "default b"}


def test_an_update_of_the_new_life_counts() -> None:
    born = insert(1, a=0, b=0)
    again = replace(2, saw=[born], a=2, b=2)
    assert merged_row(born, again, update(3, "y", saw=[again], b=3)) == {"a": 2, "b": 3}


def test_two_inserts_of_one_key_merge_column_by_column() -> None:
    first, second = insert(1, "x", a=1, b=1), insert(2, "y", a=2, b=2)
    assert merged_row(first, second) == {"a": 2, "b": 2}
    assert merged_row(first, second, update(3, "x", saw=[first], b=3)) == {"a": 2, "b": 3}


def test_an_insert_without_a_column_leaves_that_of_a_concurrent_insert() -> None:
    assert merged_row(insert(1, "x", a=1, b=1), insert(2, "y", a=2)) == {"a": 2, "b": 1}


def test_a_delete_that_knew_only_the_older_of_two_inserts_leaves_the_newer() -> None:
    first, second = insert(1, "x", a=1, b=1), insert(5, "y", a=5, b=5)
    changed = update(7, "x", saw=[first], a=7)
    gone = delete(3, "z", saw=[first])
    assert merged_row(first, second, changed) == {"a": 7, "b": 5}
    assert merged_row(first, second, changed, gone) == {"a": 5, "b": 5}


def test_a_delete_ends_an_older_insert_that_it_did_not_know() -> None:
    first, second = insert(1, "x", a=1, b=1), insert(5, "y", a=5, b=5)
    assert merged_row(first, second, delete(6, "z", saw=[first])) is None


def test_an_insert_older_than_a_concurrent_delete_is_void() -> None:
    born = insert(1, "x", a=1, b=1)
    gone = delete(2, "y", saw=[born])
    again = insert(3, "y", saw=[gone], a=3, b=3)
    assert merged_row(born, gone, again, delete(4, "z", saw=[born])) is None


def test_the_later_of_two_replacements_is_what_stays() -> None:
    born = insert(1, a=0, b=0)
    first, second = replace(2, "x", saw=[born], a=2, b=2), replace(3, "y", saw=[born], a=3)
    assert merged_row(born, first, second) == {"a": 3, "b": "default b"}


def test_an_update_by_a_writer_that_had_seen_both_inserts_survives_the_end_of_the_older() -> None:
    first, second = insert(1, "x", a=1, b=1), insert(5, "y", a=5, b=5)
    changed = update(6, "x", saw=[first, second], a=6)
    assert merged_row(first, second, changed, delete(3, "z", saw=[first])) == {"a": 6, "b": 5}


def test_runners_up_come_forward_one_after_the_other_as_lives_end() -> None:
    oldest, middle, newest = insert(1, "x", a=1, b=1), insert(3, "y", a=3, b=3), insert(5, "z", a=5, b=5)
    later_still = [update(9, "x", saw=[oldest], a=9), update(8, "y", saw=[middle], a=8)]
    lives = [oldest, middle, newest, *later_still]
    assert merged_row(*lives) == {"a": 9, "b": 5}
    ends_oldest = delete(2, "w", saw=[oldest])
    assert merged_row(*lives, ends_oldest) == {"a": 8, "b": 5}
    assert merged_row(*lives, delete(4, "w", saw=[oldest])) == {"a": 5, "b": 5}


def test_a_change_that_comes_twice_changes_nothing() -> None:
    born = insert(1, a=0, b=0)
    changed = update(2, "y", saw=[born], a=2)
    replaced = replace(3, "z", saw=[born], a=3, b=3)
    for write in (born, changed, replaced):
        replica = Replica()
        for each in (born, changed, replaced)[: (born, changed, replaced).index(write) + 1]:
            replica.take(each)
        before = replica.row, clock_of(replica.state, COLUMNS)
        merged = replica.take(write)
        assert (replica.row, clock_of(replica.state, COLUMNS)) == before
        assert merged == Merged()


def test_a_value_that_gives_way_is_named_with_who_set_it() -> None:
    born = insert(1, "x", a=0, b=0)
    replica = Replica()
    replica.take(born)
    merged = replica.take(update(2, "y", saw=[], a=2))
    assert merged == Merged()  # the writer knew of no row, so there is nothing to change
    merged = replica.take(update(2, "y", saw=[born], a=2))
    assert merged == Merged({"a": 2}, [Lost("a", Mark(version(1, "x"), version(1, "x")))])
    merged = replica.take(delete(3, "z", saw=[born]))
    assert {(lost.column, lost.mark.version) for lost in merged.lost} == {("a", version(2, "y")), ("b", version(1, "x"))}


def test_a_change_that_loses_takes_nothing_from_anyone() -> None:
    born = insert(1, "x", a=0, b=0)
    replica = Replica()
    replica.take(born)
    replica.take(update(9, "x", saw=[born], a=9))
    assert replica.take(update(5, "y", saw=[born], a=5)) == Merged()


def test_an_update_of_a_row_from_before_all_changes_counts() -> None:
    replica = Replica(RowState(lives=(LONG_AGO,)), {"a": "old", "b": "old"})
    write = Write(Op.UPDATE, version(1), frozenset({LONG_AGO}), (("a", "new"),))
    replica.take(write)
    assert replica.row == {"a": "new", "b": "old"}


def test_an_update_counts_for_a_row_from_before_sync_whoever_had_it() -> None:
    """Each writer had such a row itself, or a later one, though nobody told it of this device's."""
    replica = Replica(RowState(lives=((0, b"x"),)), {"a": "old", "b": "old"})
    replica.take(update(1, "y", saw=[], a="new"))
    assert replica.row == {"a": "new", "b": "old"}
    assert replica.state.mark("a") == Mark(version(1, "y"), LONG_AGO)


def test_a_late_part_of_a_row_from_before_sync_is_void_in_a_later_life() -> None:
    born = insert(5, "x", a=5)
    replica = Replica()
    replica.take(born)
    assert replica.take(update(0, "y", saw=[born], a="seed", b="seed")) == Merged()
    assert replica.state == RowState(lives=(born.version,), marks={"b": Mark(LONG_AGO, born.version)})


def test_values_are_read_only_where_they_may_come_forward_again() -> None:
    read: list[str] = []

    def current(column: str) -> Value:
        read.append(column)
        return 0

    older, newer = insert(1, "x", a=1, b=1), insert(5, "y", a=5, b=5)
    state = RowState()
    lives = [older, update(2, "x", saw=[older], a=2), replace(3, "x", saw=[older], a=3, b=3), newer]
    for write in [*lives, update(9, "z", saw=lives, a=9)]:
        merge(state, write.change, write.version, write.seen.__contains__, current, DEFAULTS)
    assert read == []
    late = update(10, "w", saw=[lives[2]], a=10)
    merge(state, late.change, late.version, late.seen.__contains__, current, DEFAULTS)
    assert read == ["a"]


# -- all replicas agree, and with the oracle


@dataclass(frozen=True)
class Act:
    """A replica writes, its clock at ``pick`` if that is ahead, or receives the ``pick``-th change that it can take."""

    replica: int
    kind: str
    pick: int
    columns: tuple[str, ...]


ACTS = st.lists(
    st.builds(
        Act,
        replica=st.integers(0, 3),
        kind=st.sampled_from(["receive", "receive", "update", "update", "delete", "replace", "insert over"]),
        pick=st.integers(0, 25),
        columns=st.sampled_from([("a",), ("b",), ("a", "b")]),
    ),
    min_size=3,
    max_size=24,
)
OPS = {"update": Op.UPDATE, "delete": Op.DELETE, "replace": Op.REPLACE, "insert over": Op.INSERT}


class Group:
    """Replicas that write and receive as they are told."""

    def __init__(self, count: int, *, every_column: bool) -> None:
        self.replicas = [Replica() for _ in range(count)]
        self.clocks = [0] * count
        self.writes: list[Write] = []
        self._every_column = every_column

    def act(self, act: Act) -> None:
        index = act.replica % len(self.replicas)
        replica = self.replicas[index]
        if act.kind != "receive":
            self._write(index, replica, act)
        elif deliverable := [write for write in self.writes if replica.can_take(write)]:
            self._receive(index, deliverable[act.pick % len(deliverable)])

    def _write(self, index: int, replica: Replica, act: Act) -> None:
        op = OPS[act.kind] if replica.state.lives else Op.INSERT
        columns = COLUMNS if self._every_column and op is not Op.UPDATE else act.columns
        self.clocks[index] = max(self.clocks[index] + 1, act.pick)
        stamped = (self.clocks[index], bytes([index]))
        values = tuple((column, f"{column}{len(self.writes)}") for column in columns) if op is not Op.DELETE else ()
        write = Write(op, stamped, frozenset(replica.seen), values)
        self.writes.append(write)
        replica.take(write)

    def _receive(self, index: int, write: Write) -> None:
        self.replicas[index].take(write)
        self.clocks[index] = max(self.clocks[index], write.version[0])

    def deliver_everything(self, order: Sequence[int]) -> None:
        """Each replica takes what it lacks, in an order of its own."""
        picks = itertools.cycle(order)
        for index, replica in enumerate(self.replicas):
            while deliverable := [write for write in self.writes if replica.can_take(write)]:
                self._receive(index, deliverable[next(picks) % len(deliverable)])


def check_convergence(count: int, acts: Sequence[Act], order: Sequence[int], *, every_column: bool) -> None:
    group = Group(count, every_column=every_column)
    for act in acts:
        group.act(act)
    group.deliver_everything(order)
    expected = row_of(group.writes)
    for replica in group.replicas:
        assert replica.row == expected, group.writes
        assert clock_of(replica.state, COLUMNS) == clock_of(group.replicas[0].state, COLUMNS), group.writes
        for column in COLUMNS if replica.state.lives else ():
            kept = [replica.state.mark(column), *(rival.mark for rival in replica.state.runners_up.get(column, ()))]
            assert replica.state.lives[-1] in [mark.life for mark in kept]  # so that it has a value when older lives end


ORDERS = st.lists(st.integers(0, 11), min_size=1, max_size=8)


@for_all(everyday=300, slow=1000, count=st.integers(2, 4), acts=ACTS, order=ORDERS)
def test_replicas_that_have_seen_the_same_are_the_same(count: int, acts: list[Act], order: list[int]) -> None:
    check_convergence(count, acts, order, every_column=True)


@for_all(everyday=200, slow=600, count=st.integers(2, 4), acts=ACTS, order=ORDERS)
def test_replicas_agree_also_on_inserts_by_a_schema_that_lacks_a_column(count: int, acts: list[Act], order: list[int]) -> None:
    check_convergence(count, acts, order, every_column=False)
