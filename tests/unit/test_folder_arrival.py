"""Files of a shared folder come in any order and any state, as sync tools bring them; what is read is the same in the end."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import select

from localstore import Realm
from localstore.adapter import Cursor, Hello
from localstore.wire import SealedChangeset
from localstore_adapters._folder_files import write_changes
from localstore_adapters._folder_inotify import can_listen
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import A, B, connect, files, make, numbers, pull, push, replace
from tests.unit.session_kit import PATIENCE, Note, World, add, texts

C = b"C" * 16
SPLITS = {A: [(1, 1), (2, 4), (5, 5)], B: [(1, 3), (2, 5), (4, 6)], C: [(1, 2)]}
STATES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "flipped": lambda data: data[:-3] + bytes([data[-3] ^ 4]) + data[-2:],
    "later format": lambda data: data[:9] + b"\x63" + data[10:],
}
CONFLICT = ".sync-conflict-20260101-120000-ABCDEFG.changes"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], bytes]:
    """What three devices wrote, by directory and name; two of the files overlap."""
    found = {}
    for device, runs in SPLITS.items():
        directory = tmp_path_factory.mktemp("written")
        for first, last in runs:
            name = str(write_changes(directory, make(device, first, last), os.urandom))
            found[device.hex(), name] = (directory / name).read_bytes()
    return found


@given(data=st.data(), seed=st.integers(0, 2**16), max_count=st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_every_number_is_read_once_and_in_order_however_files_arrive(
    written: dict[tuple[str, str], bytes], data: st.DataObject, seed: int, max_count: int
) -> None:
    arrivals = [
        (place, state) for place in written for state in data.draw(st.lists(st.sampled_from([*STATES, "copy"]), max_size=2))
    ]
    random.Random(seed).shuffle(arrivals)
    whole = data.draw(st.permutations(list(written)))
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory, "shared")
        adapter, _ = connect(folder)
        received: list[SealedChangeset] = []
        cursor: Cursor | None = None

        def read() -> None:
            nonlocal cursor
            more = True
            while more:
                page = pull(adapter, cursor, max_count=max_count)
                received.extend(page.changesets)
                cursor, more = page.cursor, page.more

        for place, state in [*arrivals, *((place, "whole") for place in whole)]:
            file = folder.joinpath("p-default", *place)
            file.parent.mkdir(parents=True, exist_ok=True)
            content = written[place]
            if state == "copy":
                file.with_name(file.stem + CONFLICT).write_bytes(content)
            else:
                replace(file, STATES[state](content) if state in STATES else content)
            read()
    for device, runs in SPLITS.items():
        assert [sealed for sealed in received if sealed.device == device] == make(device, 1, runs[-1][1])


def test_changes_are_applied_in_causal_order_though_the_newest_arrive_first(world: World, tmp_path: Path) -> None:
    shared, copy = tmp_path / "shared", tmp_path / "copy"
    one, other = (world.device(name, remote=lambda: FolderAdapter(shared)).open() for name in ("one", "other"))
    for number in range(3):
        for realm in (one, other):
            in_step(realm)
            change(realm, number)
            in_step(realm)
    in_step(one)
    expected = texts(one)
    assert expected == texts(other)
    copy.mkdir()
    shutil.copy(shared / "remote.json", copy)
    late = world.device("late", remote=lambda: FolderAdapter(copy)).open()
    in_step(late)
    for file in sorted(files(shared), key=lambda file: file.name, reverse=True):
        place = copy / file.relative_to(shared)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        in_step(late)
        assert len(texts(late)) <= 1
    assert texts(late) == expected == ["0 by one, by other, again, again, again, again"]


def change(realm: Realm, number: int) -> None:
    """Each device builds on what the other wrote just before."""
    found = texts(realm)
    if not found:
        add(realm, "0 by one")
        return
    with realm.write() as tx:
        note = tx.exec(select(Note)).one()
        note.text += ", by other" if note.text == "0 by one" else ", again"


def in_step(realm: Realm) -> None:
    assert realm.sync_session.upload_all_local_changes(timeout=PATIENCE)
    assert realm.sync_session.download_all_server_changes(timeout=PATIENCE)


def test_two_hundred_devices_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    connect(folder)
    devices = [number.to_bytes(16, "big") for number in range(1, 201)]
    for device in devices:
        directory = folder / "p-default" / device.hex()
        directory.mkdir(parents=True)
        write_changes(directory, make(device, 1, 2), os.urandom)
    replace(files(folder)[99], b"damaged")
    adapter, _ = connect(folder, devices[0])
    received: list[tuple[bytes, int]] = []
    cursor, more = None, True
    while more:
        page = pull(adapter, cursor, max_count=150)
        received += numbers(page)
        cursor, more = page.cursor, page.more
    assert sorted(received) == [(device, number) for device in devices[1:] if device != devices[99] for number in (1, 2)]
    assert len(page.warnings) == 1
    assert len(cursor or b"") < 8192


@pytest.mark.parametrize("listens", [True, False] if can_listen() else [False])
def test_a_folder_that_comes_back_as_a_copy_of_itself_is_read_and_watched_on(tmp_path: Path, listens: bool) -> None:
    """As a disk that is mounted anew, or a folder that was restored: another inode with the same history."""
    folder = tmp_path / "shared"
    push(folder, A, 1, 2)

    async def story() -> None:
        adapter = FolderAdapter(folder, poll_seconds=0.02, listens=listens)
        await adapter.connect(Hello(app="todo", partition="default", device=B))
        hints = adapter.watch(None)
        await asyncio.wait_for(anext(hints), 10)
        folder.rename(tmp_path / "away")
        await asyncio.wait_for(anext(hints), 10)  # that it went
        await hints.aclose()
        shutil.copytree(tmp_path / "away", folder)
        shutil.rmtree(tmp_path / "away")
        assert (await adapter.push(make(B, 1, 1))).acknowledged == 1
        async with aclosing(adapter.watch(None)) as hints:
            await asyncio.wait_for(anext(hints), 10)  # what was there before
            coming = asyncio.ensure_future(anext(hints))
            await asyncio.wait([coming], timeout=0.1)
            await asyncio.to_thread(write_changes, folder / "p-default" / A.hex(), make(A, 3, 3), os.urandom)
            await asyncio.wait_for(coming, 10)
        await adapter.close()

    asyncio.run(story())
    adapter, _ = connect(folder)
    assert numbers(pull(adapter)) == [(A, 1), (A, 2), (A, 3), (B, 1)]
