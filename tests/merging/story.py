"""What may happen to a few devices, step by step, each compared with the oracle at once."""

from __future__ import annotations

import random
from collections.abc import Callable

from localstore.changes import Key
from tests.merging.devices import Network
from tests.merging.digits import Digits
from tests.merging.oracle import Entry, Known, Lost, Merged, RowName, Shown, merged_rows, shown, values_that_lost
from tests.merging.schemas import Row, ddl, schema
from tests.merging.writes import Writer, beginning, clash

__all__ = ["Story"]

Tables = dict[str, dict[Key, Row]]
COUNTS = (2, 2, 3, 3, 3, 4, 5)


class Story:
    """Two to five devices with one random schema.

    Attributes:
        happened: names of what was reached, to see that stories are worth being told.

    Args:
        data: what decides on devices and schema.
        tell: is told what happens, in SQL.
    """

    def __init__(self, data: bytes, tell: Callable[[str], None]) -> None:
        digits = Digits(data)
        count, is_empty = digits.choose(COUNTS), digits.below(5) == 1
        self.happened = {"examples"}
        self.tables = schema(digits)
        self.network = Network(self.tables, count)
        self._tell = tell
        self._shown: list[Tables] = [device.tables() for device in self.network.devices]
        self._expectations: dict[Known, tuple[dict[RowName, Merged], Shown]] = {}
        self._aside: list[set[RowName]] = [set() for _ in range(count)]
        self._unsettled: set[int] = set()
        for statement in ddl(self.tables):
            tell(statement)
        if not is_empty:
            self._write(0, beginning(self.tables), deferred=True)
            self.exchange(0)

    # -- what happens

    def write_apart(self, digits: Digits) -> None:
        """Two devices do what goes well for each of them and not together, before they hear of each other."""
        one = self._device(digits)
        indexes = one, (one + 1 + digits.below(len(self._shown) - 1)) % len(self._shown)
        writers = [Writer(self.tables, self._shown[index], digits) for index in indexes]
        for index, writer, statements in zip(indexes, writers, clash(*writers, self.tables, digits), strict=True):
            if digits.below(2):
                statements.append(writer.statement())
            self._pass_time(index, digits)
            self._write(index, statements)

    def write(self, digits: Digits) -> None:
        """Anything, on any device; or what brings back a row that is set aside there."""
        index, how = self._device(digits), digits.choose(("", "", "deferred", "another program"))
        writer = Writer(self.tables, self._shown[index], digits)
        statements = [writer.statement() for _ in range(1 + digits.below(3))]
        missing = self._missing(index)
        if missing and digits.below(3):
            statements = [writer.insert(*digits.choose(missing)), *statements[1:]]
        self._pass_time(index, digits)
        if how == "another program":
            self._write_as_another_program(index, [sql for sql in statements if "OR REPLACE" not in sql])
        else:
            self._write(index, statements, deferred=how == "deferred")

    def deliver(self, digits: Digits) -> None:
        """Something of what devices wrote, out of turn or a second time perhaps; or the next few changesets of one device."""
        for _ in range(1 + digits.below(3)):
            to, every = self._device(digits), sorted(self.network.seen)
            if digits.below(2) and every:
                self._deliver(to, [digits.choose(every) for _ in range(1 + digits.below(6))])
            else:
                of = self._device(digits)
                following = range(self.network.known(to)[of] + 1, len(self.network.made[of]) + 1)
                self._deliver(to, [(of, number) for number in following][: 1 + digits.below(4)])

    def tend(self, digits: Digits) -> None:
        """What becomes of a device between writing and receiving."""
        index, what = self._device(digits), digits.choose(("restart", "acknowledge", "forget", "forget"))
        device = self.network.devices[index]
        self._tell(f"device {index}: {what}")
        if what == "restart":
            device.restart()
        elif what == "acknowledge":
            device.acknowledge()
        elif device.purge(self.network.horizon(index)):
            self.happened.add("clocks forgotten")

    def exchange(self, seed: int) -> None:
        """Everybody who lacks something gets everything, each in another order."""
        shuffled, everything = random.Random(seed), tuple(map(len, self.network.made))
        for index in range(len(self._shown)):
            if self.network.known(index) != everything:
                page = list(self.network.seen)
                shuffled.shuffle(page)
                self._deliver(index, page)

    def end(self) -> None:
        """Everybody gets everything, and nothing may be wrong then."""
        for index in sorted(self._unsettled):
            self._deliver(index, [])
        self.exchange(1)
        for index in range(len(self._shown)):
            self._check_all(index)

    # -- how

    def _write(self, index: int, statements: list[str], *, deferred: bool = False) -> None:
        self._tell(f"device {index} writes{', deferred' if deferred else ''}: {'; '.join(statements)}")
        self.network.devices[index].write(statements, self.network.now_ms[index], deferred=deferred)
        self.network.notice(index)
        self._check(index)

    def _write_as_another_program(self, index: int, statements: list[str]) -> None:
        """Without foreign keys. What that leaves behind is mended when the session looks at it: at the next delivery."""
        self._tell(f"another program writes to device {index}: {'; '.join(statements)}")
        self.network.devices[index].write_as_another_program(statements)
        self._unsettled.add(index)
        self._shown[index] = self.network.devices[index].tables()

    def _deliver(self, to: int, page: list[tuple[int, int]]) -> None:
        self._tell(f"device {to} receives {page}")
        applied = self.network.deliver(to, page)
        assert not applied.aside, f"SQLite refused what was merged: {applied.aside}"
        self._unsettled.discard(to)
        self._check(to)

    def _device(self, digits: Digits) -> int:
        return digits.below(len(self._shown))

    def _pass_time(self, index: int, digits: Digits) -> None:
        """None, mostly: then stamps are equal, and devices decide."""
        self.network.now_ms[index] += digits.choose((0, 0, 1, 3))

    def _missing(self, index: int) -> list[tuple[str, Row]]:
        """What rows of a device refer to that is not shown: table and key."""
        merged, expected = self._expected(index)
        found = []
        for (name, key), (values, _) in sorted(merged.items()):
            if expected.rows.get((name, key)) != values:
                references = next(table.references for table in self.tables if table.name == name)
                for reference in references:
                    wanted = {of: values[column] for of, column in zip(reference.referred, reference.columns, strict=True)}
                    if None not in wanted.values():
                        found.append((reference.target, wanted))
        return found

    # -- what has to hold

    def _check(self, index: int) -> None:
        """A device shows at any time what the rule makes of the changes that it has."""
        self._shown[index] = self.network.devices[index].tables()
        if index in self._unsettled:
            return
        merged, expected = self._expected(index)
        self._count(index, merged, expected)
        _same(self._shown[index], expected.tables(self.tables), f"what device {index} shows")

    def _check_all(self, index: int) -> None:
        device, network = self.network.devices[index], self.network
        progress = device.progress()
        _same(tuple(progress.get(other.id, 0) for other in network.devices), network.known(index), "what was applied")
        _same(network.known(index), tuple(map(len, network.made)), "what can be applied")
        _same(device.wrongs(), [], "what is wrong in the file")
        merged, expected = self._expected(index)
        entries = [Entry(c.table, c.key, c.column, c.lost_value, c.won_value) for c in device.set_aside()]
        wanted = expected.entries(self.tables, merged)
        _same(sorted(entries, key=str), sorted(wanted, key=str), f"what device {index} has set aside")
        must, may = values_that_lost(self.tables, network.told, network.known(index), index)
        listed = {Lost(c.table, c.key, c.column, c.lost_value, c.lost_stamp) for c in device.conflicts()}
        assert must <= listed <= may, f"conflicts of device {index}: lacks {must - listed}, has also {listed - may}"
        if must:
            self.happened.add("values lost")

    def _expected(self, index: int) -> tuple[dict[RowName, Merged], Shown]:
        known = self.network.known(index)
        if known not in self._expectations:
            merged = merged_rows(self.tables, self.network.told, known)
            self._expectations[known] = merged, shown(self.tables, merged)
        return self._expectations[known]

    def _count(self, index: int, merged: dict[RowName, Merged], expected: Shown) -> None:
        aside = expected.lost | expected.unfit
        happened = {
            "rows set aside for what they refer to": bool(expected.lost),
            "rows set aside for unique values or checks": bool(expected.unfit),
            "references not shown": any(expected.rows[row] != merged[row].values for row in expected.rows),
            "several rows set aside at once": len(aside) > 1,
            "rows came back": bool(self._aside[index] & expected.rows.keys()),
        }
        self._aside[index] |= aside
        self.happened.update(name for name, is_so in happened.items() if is_so)


def _same(found: object, expected: object, what: str) -> None:
    assert found == expected, f"{what}:\n  found    {found}\n  expected {expected}"
