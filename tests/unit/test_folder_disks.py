"""Shared folders beyond the contract: who made them, disks that come and go, watching, partitions."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from localstore.adapter import Cursor, Hello
from localstore.environment import Environment
from localstore.errors import NewerFormat, Offline, ProtocolError, ResetRequired
from localstore.wire import SealedChangeset
from localstore_adapters._folder_files import publish_once, reaching, write_changes
from localstore_adapters._folder_inotify import can_listen
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import A, B, connect, exchange, files, make, numbers, pull, push


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shared"


class TestIdentity:
    def test_devices_that_race_for_a_new_folder_agree(self, folder: Path) -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            welcomes = list(pool.map(lambda number: connect(folder, bytes([number]) * 16)[1], range(8)))
        assert len({welcome.remote_id for welcome in welcomes}) == 1
        assert os.listdir(folder) == ["remote.json"]  # noqa: PTH208 - names are what counts

    def test_where_links_are_not_to_be_had_one_still_wins(self, tmp_path: Path) -> None:
        def no_links(source: Path, target: Path) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        assert publish_once(tmp_path, "x", b"first", os.urandom, link=no_links)
        assert not publish_once(tmp_path, "x", b"second", os.urandom, link=no_links)
        assert not publish_once(tmp_path, "x", b"third", os.urandom)
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"first")]

    def test_the_file_says_whose_it_is(self, folder: Path) -> None:
        _, welcome = connect(folder)
        found = json.loads((folder / "remote.json").read_text())
        assert (found["format"], found["app"], found["remote_id"]) == (1, "todo", welcome.remote_id)

    def test_another_application_is_told_whose_folder_it_is(self, folder: Path) -> None:
        connect(folder)
        with pytest.raises(ProtocolError, match=r"'todo', not of 'notes'.*folder of its own"):
            asyncio.run(FolderAdapter(folder).connect(Hello(app="notes", partition="default", device=A)))

    def test_a_remote_inside_another_one_does_not_mix_with_it(self, folder: Path) -> None:
        push(folder, A, 1, 2)
        inner = folder / "p-default"
        push(inner, B, 1, 1)
        (outer_reader, outer), (inner_reader, inside) = connect(folder), connect(inner)
        assert outer.remote_id != inside.remote_id
        page = pull(outer_reader)
        assert numbers(page) == [(A, 1), (A, 2)]
        assert len(page.warnings) == 2  # the inner one's remote.json and partition
        assert numbers(pull(inner_reader)) == [(B, 1)]

    def test_a_folder_of_a_newer_localstore_is_left_alone(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "remote.json").write_text('{"format": 2, "everything": "else is new"}')
        with pytest.raises(NewerFormat, match="Upgrade"):
            connect(folder)

    @pytest.mark.parametrize("content", ["", '{"format": 1, "app": "to', "[]", '{"format": 1}', '{"format": "1"}'])
    def test_an_identity_that_is_not_whole_is_waited_for(self, folder: Path, content: str) -> None:
        _, welcome = connect(folder)
        whole = (folder / "remote.json").read_text()
        (folder / "remote.json").write_text(content)
        with pytest.raises(Offline, match=r"remote\.json is not whole"):
            connect(folder)
        (folder / "remote.json").write_text(whole)
        assert connect(folder)[1] == welcome

    def test_a_folder_still_being_copied_gets_no_second_identity(self, folder: Path) -> None:
        push(folder, A, 1, 1)
        (folder / "remote.json").unlink()
        with pytest.raises(Offline, match="still being copied"):
            connect(folder)
        assert not (folder / "remote.json").exists()


class TestDisksThatComeAndGo:
    def test_the_folder_is_made_at_the_first_connect_only(self, folder: Path) -> None:
        _, welcome = connect(folder)
        shutil.rmtree(folder)
        for known in ({"remote_id": welcome.remote_id}, {"cursor": Cursor(b"x")}):
            with pytest.raises(Offline, match="is not there"):
                connect(folder, **known)
        assert not folder.exists()

    def test_the_parent_is_never_made(self, tmp_path: Path) -> None:
        with pytest.raises(Offline, match="is not there"):
            connect(tmp_path / "mnt" / "shared")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_its_place_is_called_one(self, folder: Path) -> None:
        folder.write_text("somebody's")
        with pytest.raises(Offline, match="is a file and no folder"):
            connect(folder)
        assert folder.read_text() == "somebody's"

    def test_an_unplugged_disk_is_not_filled_from_behind(self, folder: Path) -> None:
        adapter, welcome = connect(folder, A)
        asyncio.run(adapter.push(make(A, 1, 1)))
        unplugged = exchange(folder)
        with pytest.raises(Offline, match="went away"):
            asyncio.run(adapter.push(make(A, 2, 2)))
        with pytest.raises(Offline, match="went away"):
            pull(adapter)
        with pytest.raises(Offline, match="emptied, or the disk"):
            connect(folder, A, remote_id=welcome.remote_id)
        assert list(folder.iterdir()) == []
        folder.rmdir()
        unplugged.rename(folder)
        assert asyncio.run(adapter.push(make(A, 2, 2))).acknowledged == 2

    def test_another_disk_in_its_place_asks_for_a_reset(self, folder: Path) -> None:
        adapter, welcome = connect(folder, A)
        folder.rename(folder.with_name("unplugged"))
        push(folder, B, 1, 1)
        with pytest.raises(ResetRequired, match="remote replaced"):
            asyncio.run(adapter.push(make(A, 1, 1)))
        with pytest.raises(ResetRequired, match="remote replaced"):
            pull(adapter)
        with pytest.raises(ResetRequired, match="remote replaced"):
            connect(folder, A, remote_id=welcome.remote_id)
        assert len(files(folder)) == 1

    def test_a_file_in_the_place_of_the_folder_is_offline(self, folder: Path) -> None:
        folder.write_text("no folder")
        with pytest.raises(Offline):
            connect(folder)
        assert folder.read_text() == "no folder"

    def test_a_failed_write_leaves_nothing_and_can_be_repeated(self, folder: Path) -> None:
        adapter, _ = connect(folder, A)
        (folder / "p-default").write_text("in the way")
        with pytest.raises(Offline) as caught:
            asyncio.run(adapter.push(make(A, 1, 1)))
        assert isinstance(caught.value.__cause__, OSError)
        (folder / "p-default").unlink()
        assert asyncio.run(adapter.push(make(A, 1, 1))).acknowledged == 1
        assert len(files(folder)) == 1

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (errno.ENOSPC, "no room left"),
            (errno.EDQUOT, "no room left"),
            (errno.EACCES, "not open to this user"),
            (errno.EPERM, "not open to this user"),
            (errno.EROFS, "read-only"),
            (errno.EIO, "cannot be used"),
            (errno.ESTALE, "cannot be used"),
        ],
    )
    def test_what_the_system_says_becomes_a_message_with_a_way_out(self, folder: Path, code: int, words: str) -> None:
        error = OSError(code, os.strerror(code), str(folder / "x"))
        with pytest.raises(Offline, match=words) as caught, reaching(folder):
            raise error
        assert str(folder / "x") in caught.value.message
        assert "Local data is safe" in caught.value.message
        assert caught.value.hint
        assert caught.value.__cause__ is error


WAYS = ["by Linux", "through watchfiles"] if can_listen() else ["through watchfiles"]


@pytest.fixture(params=WAYS)
def listens(request: pytest.FixtureRequest) -> bool:
    """Whether the system is asked itself."""
    return bool(request.param == "by Linux")


class TestWatching:
    def test_a_replaced_folder_is_a_hint_and_ends_the_watch(self, folder: Path, listens: bool) -> None:
        push(folder, B, 1, 1)

        async def story() -> None:
            adapter = FolderAdapter(folder, poll_seconds=0.02, listens=listens)
            await adapter.connect(Hello(app="todo", partition="default", device=A))
            hints = adapter.watch(None)
            await asyncio.wait_for(anext(hints), 10)  # what was there before: the watch has begun
            exchange(folder)
            await asyncio.wait_for(anext(hints), 10)
            with pytest.raises(Offline):
                await anext(hints)
            await adapter.close()

        asyncio.run(story())

    def test_a_missing_folder_cannot_be_watched(self, folder: Path, listens: bool) -> None:
        async def story() -> None:
            adapter = FolderAdapter(folder, listens=listens)
            await adapter.connect(Hello(app="todo", partition="default", device=A))
            shutil.rmtree(folder)
            with pytest.raises(Offline, match="went away"):
                await anext(adapter.watch(None))

        asyncio.run(story())

    def test_only_whole_files_of_other_devices_are_news(self, folder: Path, listens: bool) -> None:
        async def story() -> None:
            adapter = FolderAdapter(folder, listens=listens)
            await adapter.connect(Hello(app="todo", partition="default", device=A))
            await adapter.push(make(A, 1, 1))
            own = files(folder)[0]
            hints = adapter.watch(None)
            coming = asyncio.ensure_future(anext(hints))
            await asyncio.wait([coming], timeout=0.1)
            await adapter.push(make(A, 2, 2))
            others = own.parent.with_name(B.hex())
            others.mkdir()
            (others / ".x.tmp").write_bytes(b"half")
            (others / "x.sync-conflict-1.changes").write_bytes(b"foreign")
            await asyncio.wait([coming], timeout=0.2)
            assert not coming.done()
            write_changes(others, make(B, 1, 1), os.urandom)
            await asyncio.wait_for(coming, 10)
            await adapter.close()

        asyncio.run(story())

    def test_without_watchfiles_polling_does_the_job(self, tmp_path: Path) -> None:
        program = (
            "import asyncio, sys\n"
            "sys.modules['watchfiles'] = None\n"
            "from localstore.adapter import Hello, Limit\n"
            "from localstore.errors import Offline\n"
            "from localstore_adapters.folder import FolderAdapter\n"
            "async def story():\n"
            "    adapter = FolderAdapter(sys.argv[1], listens=False)\n"
            "    assert not adapter.capabilities.watch\n"
            "    await adapter.connect(Hello(app='todo', partition='default', device=b'A' * 16))\n"
            "    assert not (await adapter.pull(None, Limit())).more\n"
            "    try:\n"
            "        await anext(adapter.watch(None))\n"
            "    except Offline as error:\n"
            "        print(error)\n"
            "asyncio.run(story())\n"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "shared")]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "pip install 'localstore-sync[folder]'" in finished.stdout


class TestPartitionsAndBlocking:
    def test_partitions_live_side_by_side(self, folder: Path) -> None:
        for partition in ("a", "A", "con", "../x", "ä/b", "x" * 300):
            adapter = FolderAdapter(folder)
            asyncio.run(adapter.connect(Hello(app="todo", partition=partition, device=A)))
            asyncio.run(adapter.push(make(A, 1, 1)))
        assert len({path.name.lower() for path in folder.iterdir()}) == 7
        assert all(path.parent.parent.parent == folder for path in files(folder))

    def test_the_event_loop_never_touches_a_file(self, folder: Path) -> None:
        """All work goes through the environment; without it nothing happens."""

        async def run_blocking(work: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
            raise Offline("no worker threads today")

        adapter = FolderAdapter(folder, environment=dataclasses.replace(Environment(), run_blocking=run_blocking))
        with pytest.raises(Offline, match="no worker threads"):
            asyncio.run(adapter.connect(Hello(app="todo", partition="default", device=A)))
        assert not folder.exists()

    def test_a_line_must_be_connected_first(self, folder: Path) -> None:
        with pytest.raises(Offline, match="not connected"):
            asyncio.run(FolderAdapter(folder).push(make(A, 1, 1)))

    @pytest.mark.parametrize("batch", [[], make(B, 1, 1), [*make(A, 1, 1), *make(A, 3, 3)]], ids=["empty", "foreign", "gap"])
    def test_a_batch_that_is_no_run_of_this_device_is_a_wrong_argument(
        self, folder: Path, batch: list[SealedChangeset]
    ) -> None:
        adapter, _ = connect(folder, A)
        with pytest.raises(ValueError, match="consecutive numbers"):
            asyncio.run(adapter.push(batch))
