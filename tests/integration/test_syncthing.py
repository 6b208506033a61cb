"""Two devices, each on its own copy of the folder, and two real Syncthing daemons that keep the copies in step."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.damaging import first_numbers, snapshot_files
from tests.integration.device_kit import DeviceProcess, check_converged, contents, device
from tests.integration.real_tools import needs, until
from tests.integration.syncthing_kit import Daemon, daemons

pytestmark = pytest.mark.slow


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Daemon, Daemon]]:
    needs(syncthing="syncthing")
    with daemons(tmp_path / "syncthing") as pair:
        yield pair


def come_into_step(one: DeviceProcess, other: DeviceProcess, pair: tuple[Daemon, Daemon]) -> None:
    """Let everything arrive everywhere."""
    for process in (one, other):
        process.do("upload")
    a, b = pair
    until(lambda: a.has_given_everything_to(b) and b.has_given_everything_to(a), "copies in step")
    for process in (one, other):
        process.do("download")


def changes_of(copy: Path) -> list[Path]:
    return sorted(copy.rglob("*.changes"), key=lambda path: path.stat().st_mtime_ns)


def snapshots_in(copy: Path) -> list[str]:
    return [path.name for path in snapshot_files(copy)]


def test_edits_on_both_sides_arrive_also_after_a_daemon_was_down(tmp_path: Path, pair: tuple[Daemon, Daemon]) -> None:
    files = [tmp_path / "one.db", tmp_path / "two.db"]
    a, b = pair
    a.start()
    b.start()
    with device(files[0], a.copy, 20) as one:
        until((b.copy / "remote.json").exists, "the identity in the other copy")
        with device(files[1], b.copy, 20) as two:
            for process in (one, two):
                process.do("rows 40")
            b.stop()
            for process in (one, two):
                process.do("write 40")
                process.do("upload")  # into its copy, which is all that it knows
            b.start()
            for process in (one, two):
                process.do("rows 80")
            come_into_step(one, two, pair)
    check_converged(files, one.written + two.written)


def test_devices_that_begin_before_their_copies_have_met_agree_in_the_end(tmp_path: Path, pair: tuple[Daemon, Daemon]) -> None:
    """Each gives its own copy an identity; Syncthing keeps one, and lays the other aside as a conflict."""
    files = [tmp_path / "one.db", tmp_path / "two.db"]
    a, b = pair
    with device(files[0], a.copy, 20, may_err=True) as one, device(files[1], b.copy, 20, may_err=True) as two:
        for process in (one, two):
            process.do("upload")
        assert (a.copy / "remote.json").read_bytes() != (b.copy / "remote.json").read_bytes()
        a.start()
        b.start()
        for process in (one, two):
            process.do("rows 40")
        come_into_step(one, two, pair)
        for process in (one, two):
            process.do("write 30")
        for process in (one, two):
            process.do("rows 60")
        come_into_step(one, two, pair)
    assert list(a.copy.glob("remote.sync-conflict-*.json"))
    assert (a.copy / "remote.json").read_bytes() == (b.copy / "remote.json").read_bytes()
    check_converged(files, one.written + two.written)
    assert not one.errors + two.errors


def test_a_conflict_copy_is_told_and_what_was_damaged_is_picked_up_when_it_is_put_back(
    tmp_path: Path, pair: tuple[Daemon, Daemon]
) -> None:
    files = [tmp_path / "one.db", tmp_path / "two.db", tmp_path / "newcomer.db"]
    a, b = pair
    a.start()
    b.start()
    with ExitStack() as running:
        one = running.enter_context(device(files[0], a.copy, 20, may_err=True))
        until((b.copy / "remote.json").exists, "the identity in the other copy")
        two = running.enter_context(device(files[1], b.copy, 20, may_err=True))
        for process in (one, two):
            process.do("rows 40")
        come_into_step(one, two, pair)
        b.stop()
        there = changes_of(a.copy)[0]
        here = b.copy / there.relative_to(a.copy)
        whole = there.read_bytes()
        there.write_bytes(whole[: len(whole) // 2])
        here.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(there, (there.stat().st_atime, here.stat().st_mtime + 60))  # the later one keeps the name
        b.start()
        until(lambda: bool(list(here.parent.glob("*.sync-conflict-*"))), "a conflict copy")
        until(lambda: here.read_bytes() == there.read_bytes() == whole[: len(whole) // 2], "one content on both sides")
        newcomer = running.enter_context(device(files[2], b.copy, 0, may_err=True))
        newcomer.complain(f"{here} is not whole yet")
        newcomer.complain(".sync-conflict-")
        there.write_bytes(whole)
        newcomer.do("rows 40")
        for process in (one, two, newcomer):
            process.do("write 40")
        for process in (one, two, newcomer):
            process.do("rows 120")
        come_into_step(one, newcomer, pair)
        two.do("upload")
        come_into_step(one, two, pair)
        newcomer.do("download")
    check_converged(files, one.written + two.written + newcomer.written)
    assert len(contents(files[0])["reading"]) == 120


def test_snapshots_are_copied_and_what_is_let_go_of_goes_from_both_copies(tmp_path: Path, pair: tuple[Daemon, Daemon]) -> None:
    files = [tmp_path / "one.db", tmp_path / "two.db", tmp_path / "newcomer.db"]
    a, b = pair
    a.start()
    b.start()
    with ExitStack() as running:

        def begin(file: Path, daemon: Daemon) -> DeviceProcess:
            return running.enter_context(device(file, daemon.copy, may_err=True, keep_seconds=5.0, snapshot_every=20))

        one = begin(files[0], a)
        one.do("upload")
        until((b.copy / "remote.json").exists, "the identity in the other copy")
        two = begin(files[1], b)
        for number in itertools.count(1):
            if number == 3:
                b.stop()  # each makes snapshots of what it has
            for process in (one, two):
                process.do(f"write {20 * number}")
                process.do("upload")
            if number == 3:
                b.start()
            for process in (one, two):
                process.do(f"rows {40 * number}")
            come_into_step(one, two, pair)
            if number > 3 and all(min(first_numbers(daemon.copy)) > 1 for daemon in pair):
                break
            assert number < 50, "nothing is let go of"
        newcomer = begin(files[2], b)
        newcomer.do(f"rows {40 * number}")
        come_into_step(one, two, pair)
        newcomer.do("download")
    check_converged(files, one.written + two.written)
    until(lambda: snapshots_in(a.copy) == snapshots_in(b.copy), "the same snapshots")
