"""A copy that takes unsent changes along, made at any moment between their being sent and their acknowledgement being noted.

Here devices read a remote from where their files say that they are, which is where a copy goes on; in ``test_copied_devices``
whoever delivers knows what each device lacks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st

from localstore.testing.clock import ManualClock
from localstore.wire import SealedChangeset
from tests.properties import for_all
from tests.unit.reset_kit import RECOVER, began
from tests.unit.store_kit import LINK, NOTE, Device, check_equal, close_devices, other_program, query, write
from tests.unit.test_apply import statements
from tests.unit.test_copied_devices import copied as opened_copy

TABLES = (NOTE, LINK)


def copied(source: Device, name: str, tables: Sequence[sa.Table] = (NOTE,), *, with_unsent: bool = True) -> Device:
    """A copy, opened, that has met the remote."""
    device = opened_copy(source, name, tables, with_unsent=with_unsent)
    device.store.read_again()
    return device


START_MS = ManualClock().now_ms()


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    close_devices()


class Remote:
    """What was sent, read from where a device's file says that it is.

    Args:
        is_ordered: one history in order of arrival; else each device's for itself, as files in a folder.
        gives_own: a device reads its own changesets as well.
    """

    def __init__(self, *, is_ordered: bool, gives_own: bool) -> None:
        self._is_ordered = is_ordered
        self._gives_own = gives_own
        self._log: list[SealedChangeset] = []

    def take(self, device: Device, count: int = 1 << 30) -> None:
        """Store what a device has not sent yet. It is not told."""
        for sealed in device.sealed():
            if count and sealed.number > self.last_number(device):
                self._log.append(sealed)
                count -= 1

    def last_number(self, device: Device) -> int:
        return len(self._of(device.id))

    def last_numbers(self) -> dict[bytes, int]:
        return {sealed.device: len(self._of(sealed.device)) for sealed in self._log}

    def give(self, device: Device, count: int, chance: random.Random) -> bool:
        """Let a device read on; whether there was anything."""
        after = device.store.state().cursor
        read = {} if after is None else json.loads(after)
        at = dict(read)
        page = self._next(device, at, count) if self._is_ordered else self._next_of_some(device, at, count, chance)
        assert device.store.apply(page, after=after, cursor=json.dumps(at).encode()) is not None
        return at != read

    def _next(self, device: Device, at: dict[str, int], count: int) -> list[SealedChangeset]:
        begin = at.get("", 0)
        at[""] = min(len(self._log), begin + count)
        return [sealed for sealed in self._log[begin : at[""]] if self._gives_own or sealed.device != device.id]

    def _next_of_some(self, device: Device, at: dict[str, int], count: int, chance: random.Random) -> list[SealedChangeset]:
        page = []
        for _ in range(count):
            left = {other: self._of(other)[at.get(other.hex(), 0) :] for other in self.last_numbers()}
            new = sorted(other for other in left if left[other] and (self._gives_own or other != device.id))
            if new:
                sealed = left[chance.choice(new)][0]
                page.append(sealed)
                at[sealed.device.hex()] = sealed.number
        return page

    def _of(self, device: bytes) -> list[SealedChangeset]:
        return [sealed for sealed in self._log if sealed.device == device]


REMOTES = {
    (is_ordered, gives_own): f"{'ordered' if is_ordered else 'unordered'}, {'with' if gives_own else 'without'} own"
    for is_ordered in (True, False)
    for gives_own in (True, False)
}


def exchange_all(remote: Remote, devices: list[Device], chance: random.Random) -> None:
    """Everybody sends, is told, and reads all there is."""
    for device in devices:
        device.store.seal()
        remote.take(device)
        device.store.acknowledge(remote.last_number(device))
    for device in devices:
        while remote.give(device, chance.randint(1, 5), chance):
            pass


def check_all_known(remote: Remote, devices: list[Device]) -> None:
    for device in devices:
        assert query(device.path, "SELECT count(*) FROM localstore_waiting") == [(0,)]
        numbers = dict(query(device.path, "SELECT device, number FROM localstore_device"))
        assert {**numbers, device.id: device.store.state().last_number}.items() >= remote.last_numbers().items()
    check_equal(*devices, tables=("note", "link"))


# -- one history, and a copy at the moments of it that matter


MOMENTS = ["written", "sent", "read back", "answered by another", "the answer read", "told"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", REMOTES, ids=REMOTES.values())
def test_a_copy_gets_what_its_source_sends_later(tmp_path: Path, kind: tuple[bool, bool], moment: str) -> None:
    remote, chance = Remote(is_ordered=kind[0], gives_own=kind[1]), random.Random(1)
    x, y = (Device(tmp_path, name, TABLES, clock=ManualClock()) for name in "xy")
    x.write("INSERT INTO note VALUES ('a', 'first', 1)")
    exchange_all(remote, [x, y], chance)

    def answer() -> None:
        remote.give(y, 9, chance)
        y.write("UPDATE note SET stars = 2 WHERE id = 'a'")
        remote.take(y)

    steps: list[Callable[[], object]] = [
        lambda: x.write("UPDATE note SET title = 'second' WHERE id = 'a'"),
        lambda: remote.take(x),
        lambda: remote.give(x, 9, chance),
        answer,
        lambda: remote.give(x, 9, chance),
        lambda: x.store.acknowledge(remote.last_number(x)),
    ]
    devices = [x, y]
    for name, step in zip(MOMENTS, steps, strict=True):
        step()
        if name == moment:
            devices.append(copied(x, "w", TABLES))
    exchange_all(remote, devices, chance)
    x.write("UPDATE note SET title = 'last' WHERE id = 'a'")
    exchange_all(remote, devices, chance)
    check_all_known(remote, devices)
    assert devices[-1].row("a") == {"title": "last", "stars": 2}


def test_a_copy_reads_again_only_what_came_since_nothing_was_unsent(tmp_path: Path) -> None:
    x, y = Device(tmp_path, "x"), Device(tmp_path, "y")
    x.receive(y.write("INSERT INTO note VALUES ('a', 'from y', 1)"))
    x.write("INSERT INTO note VALUES ('b', 'from x', 1)")
    assert copied(x, "v").store.state().cursor == b"1"
    for _ in range(2):
        x.receive(y.write("UPDATE note SET stars = stars + 1 WHERE id = 'a'"))
    assert copied(x, "w").store.state().cursor == b"1"
    x.store.acknowledge(1)
    assert copied(x, "u", with_unsent=False).store.state().cursor == b"3"
    x.receive(y.write("UPDATE note SET stars = 9 WHERE id = 'a'"))
    x.write("DELETE FROM note")
    assert copied(x, "t").store.state().cursor == b"4"


def test_a_copy_of_a_file_that_was_reset_reads_nothing_of_the_history_before(tmp_path: Path) -> None:
    remote, x, y = began(tmp_path, "INSERT INTO note VALUES ('a', 'first', 1)")
    x.write("UPDATE note SET stars = 2")
    y.write("INSERT INTO note VALUES ('b', 'from y', 1)")
    remote.push(y)
    remote.pull(x)
    remote.reset(x, RECOVER)
    assert copied(x, "w").store.state().cursor == x.store.state().cursor


# -- any history


@dataclass(frozen=True)
class Step:
    """What a device does; ``count`` is how many changesets it sends or reads, or where its clock goes."""

    device: int
    kind: str
    count: int
    statements: tuple[str, ...]


KINDS = ["write", "send", "write and send", "read", "read", "answer", "answer", "be told", "clock", "reopen", "other program"]


def histories(size: int) -> st.SearchStrategy[list[Step]]:
    step = st.builds(
        Step,
        device=st.sampled_from([0, 0, 1, 2, 3]),
        kind=st.sampled_from(KINDS),
        count=st.integers(1, 4),
        statements=st.lists(statements(), min_size=1, max_size=3).map(tuple),
    )
    return st.lists(step, min_size=5, max_size=size)


def act(remote: Remote, device: Device, step: Step, chance: random.Random) -> None:
    if step.kind == "other program":
        with other_program(device.path) as connection:
            connection.execute(step.statements[0])
    elif step.kind == "be told":
        device.store.acknowledge(remote.last_number(device))
    elif step.kind == "clock":
        device.clock.set(device.clock.now_ms() + (step.count - 2) * 400_000)
    elif step.kind == "reopen":
        device.reopen()
    if step.kind in ("read", "answer"):
        remote.give(device, 9 if step.kind == "answer" else step.count, chance)
    if step.kind in ("write", "write and send", "answer"):
        write(device.store, *step.statements)
    if step.kind in ("send", "write and send", "answer"):
        remote.take(device, step.count)


@for_all(
    everyday=4,
    slow=10,
    kind=st.sampled_from(list(REMOTES)),
    ahead=st.lists(st.sampled_from([0, 0, 400_000]), min_size=3, max_size=3),
    before=histories(20),
    after=histories(14),
    chance=st.randoms(use_true_random=False),
)
def test_a_copy_at_any_moment_and_all_others_hold_the_same_in_the_end(
    kind: tuple[bool, bool], ahead: list[int], before: list[Step], after: list[Step], chance: random.Random
) -> None:
    """What comes from devices whose clocks are too far ahead has to wait, and what depends on it."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        stack.callback(close_devices)
        remote = Remote(is_ordered=kind[0], gives_own=kind[1])
        clocks = [ManualClock(START_MS + milliseconds) for milliseconds in ahead]
        devices = [Device(Path(folder), name, TABLES, clock=clock) for name, clock in zip("xyz", clocks, strict=True)]
        for step in before:
            act(remote, devices[step.device % 3], step, chance)
        devices.append(copied(devices[0], "w", TABLES))
        for step in after:
            act(remote, devices[step.device], step, chance)
        much_later = max(device.clock.now_ms() for device in devices) + 1_000_000_000
        for device in devices:  # nothing waits for a clock any more
            device.clock.set(much_later)
        exchange_all(remote, devices, chance)
        exchange_all(remote, devices, chance)
        check_all_known(remote, devices)
