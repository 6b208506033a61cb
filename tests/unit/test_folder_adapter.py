"""The files of a shared folder beyond the contract: damaged, foreign, missing, overlapping, left over."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localstore.adapter import Hello
from localstore.environment import Environment
from localstore.errors import Offline
from localstore.wire import MAX_CHANGESET_BYTES, SealedChangeset
from localstore_adapters._folder_files import write_changes
from localstore_adapters.folder import FolderAdapter
from tests.unit.folder_lines import A, B, connect, files, make, numbers, pull, push, replace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "shared"


class TestFiles:
    def test_one_push_makes_one_file_and_leaves_nothing_else(self, folder: Path) -> None:
        file = push(folder, A, 1, 3)
        assert file.parent == folder / "p-default" / A.hex()
        first, last, digest = file.stem.split("-")
        assert (int(first), int(last), len(digest), file.suffix) == (1, 3, 16, ".changes")
        assert files(folder) == [file]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_under_a_files_name_is_passed_over(self, folder: Path) -> None:
        file = push(folder, A, 1, 3)
        push(folder, B, 1, 1)
        file.unlink()
        os.mkfifo(file)
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert numbers(page) == [(B, 1)]
        assert ["is not a file" in warning for warning in page.warnings] == [True]

    def test_a_pushed_file_is_never_touched_again(self, folder: Path) -> None:
        file = push(folder, A, 1, 3)
        before = (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino)
        adapter, _ = connect(folder, A)
        asyncio.run(adapter.push(make(A, 2, 5)))
        assert (file.read_bytes(), file.stat().st_mtime_ns, file.stat().st_ino) == before
        assert [path.stem[:25] for path in files(folder)] == ["000000000001-000000000003", "000000000004-000000000005"]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: b"",
            lambda data: data[:20],
            lambda data: data[:50],
            lambda data: data[:-1],
            lambda data: data + b"\n",
            lambda data: data[:-5] + b"\x00" + data[-4:],
            lambda data: b"\x00" * len(data),
            lambda data: data.replace(b"\r\n", b"\n", 1),
            lambda data: b"MZ" + data[2:],
            lambda data: data[:9] + b"\x63" + data[10:],  # a format of later times
            lambda data: data[:10] + b"\xff" * 8 + data[18:],  # a length beyond all reason
        ],
        ids=["empty", "header-cut", "no-payload", "cut", "longer", "flipped", "zeros", "text-mode", "magic", "newer", "length"],
    )
    def test_a_damaged_file_is_named_and_holds_up_only_its_device(self, folder: Path, damage: Callable[[bytes], bytes]) -> None:
        damaged = push(folder, A, 2 - 1, 2)
        push(folder, A, 3, 3)
        push(folder, B, 1, 2)
        whole = damaged.read_bytes()
        replace(damaged, damage(whole))
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert numbers(page) == [(B, 1), (B, 2)]
        assert not page.more
        assert [str(damaged) in warning for warning in page.warnings] == [True]
        again = pull(adapter, page.cursor)
        assert (numbers(again), again.warnings) == ([], page.warnings)
        replace(damaged, whole)
        page = pull(adapter, page.cursor)
        assert numbers(page) == [(A, 1), (A, 2), (A, 3)]
        assert page.warnings == ()

    def test_no_cut_and_no_flipped_byte_ever_passes(self, folder: Path) -> None:
        file = push(folder, A, 1, 1)
        whole = file.read_bytes()
        adapter, _ = connect(folder)
        variants = [whole[:length] for length in range(len(whole))]
        variants += [whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :] for i in range(len(whole))]
        variants.append(whole[:9] + b"\x00" + whole[10:])  # a format that never was
        for variant in variants:
            replace(file, variant)
            page = pull(adapter)
            assert page.changesets == ()
            assert len(page.warnings) == 1
        replace(file, whole)
        assert list(pull(adapter).changesets) == make(A, 1, 1)

    def test_a_file_under_a_false_name_is_not_believed(self, folder: Path) -> None:
        file = push(folder, A, 1, 2)
        false_device = file.parent.with_name(B.hex()) / file.name
        false_device.parent.mkdir()
        shutil.copy(file, false_device)
        false_numbers = file.with_name(file.name.replace("000000000001-000000000002", "000000000003-000000000004"))
        shutil.copy(file, false_numbers)
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert numbers(page) == [(A, 1), (A, 2)]
        assert sorted(warning.split(" ")[0] for warning in page.warnings) == sorted(map(str, [false_device, false_numbers]))

    @pytest.mark.parametrize(
        "name",
        [
            ".syncthing.x.changes.tmp",
            ".000000000001-000000000001-0123456789abcdef.changes.aaaa.tmp",
            "~$x.changes",
            "._000000000001-000000000001-0123456789abcdef.changes",
            "upload.tmp",
            "x.part",
            "Thumbs.db",
            ".DS_Store",
        ],
    )
    def test_passing_files_are_counted_and_passed_over(self, folder: Path, name: str) -> None:
        file = push(folder, A, 1, 1)
        for directory in (file.parent, file.parent.parent):
            (directory / name).write_bytes(b"x")
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert (numbers(page), page.warnings) == ([(A, 1)], ())
        (said,) = page.passed_over
        assert said.startswith(f"2 files are still being written or copied, or another program's: {folder}")
        assert name in said
        for directory in (file.parent, file.parent.parent):
            (directory / name).unlink()
        assert pull(adapter, page.cursor).passed_over == ()

    @pytest.mark.parametrize(
        "name",
        [
            "000000000001-000000000001-0123456789abcdef.sync-conflict-20260101-120000-ABCDEFG.changes",
            "000000000001-000000000001-0123456789abcdef (1).changes",
            "000000000001-000000000001-0123456789ABCDEF.changes",
            "1-1-0123456789abcdef.changes",
            "000000000002-000000000001-0123456789abcdef.changes",
            "notes.txt",
        ],
    )
    def test_foreign_files_are_named_and_left_alone(self, folder: Path, name: str) -> None:
        file = push(folder, A, 1, 1)
        foreign = file.with_name(name)
        foreign.write_bytes(file.read_bytes())
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert numbers(page) == [(A, 1)]
        assert [str(foreign) in warning for warning in page.warnings] == [True]
        assert foreign.exists()

    def test_a_device_under_another_case_is_named_and_read_once(self, folder: Path) -> None:
        file = push(folder, A.replace(b"A", b"J"), 1, 1)  # "4a…": a name with letters
        duplicate = file.parent.with_name(file.parent.name.upper())
        if duplicate.exists():
            pytest.skip("this file system knows no case")
        shutil.copytree(file.parent, duplicate)
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert len(page.changesets) == 1
        assert [str(duplicate) in warning for warning in page.warnings] == [True]

    def test_of_very_many_foreign_files_a_hundred_are_named_always_the_same(self, folder: Path) -> None:
        file = push(folder, A, 1, 2)
        replace(file, b"damaged")
        for number in range(250):
            file.with_name(f"copy {number:03}.changes").touch()
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert len(page.warnings) == 102
        assert "copy 099.changes" in page.warnings[99]
        assert "more" in page.warnings[100]
        assert str(file) in page.warnings[101]
        file.with_name("copy 200.changes").unlink()
        assert pull(adapter, page.cursor).warnings == page.warnings

    def test_what_else_lies_in_the_folder_does_not_matter(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "README.txt").write_text("ours")
        (folder / "photos").mkdir()
        push(folder, A, 1, 1)
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert (numbers(page), page.warnings) == ([(A, 1)], ())

    def test_a_missing_file_makes_its_device_wait(self, folder: Path) -> None:
        push(folder, A, 1, 1)
        missing = push(folder, A, 2, 3)
        push(folder, A, 4, 4)
        push(folder, B, 1, 1)
        kept = missing.rename(folder / "kept")
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert numbers(page) == [(A, 1), (B, 1)]
        assert not page.more
        kept.rename(missing)
        assert numbers(pull(adapter, page.cursor)) == [(A, 2), (A, 3), (A, 4)]

    @pytest.mark.parametrize("count", [1, 2, 3, 100])
    @pytest.mark.parametrize("damaged", [None, (2, 5)])
    def test_overlapping_files_give_each_number_once(self, folder: Path, count: int, damaged: tuple[int, int] | None) -> None:
        connect(folder, A)
        directory = folder / "p-default" / A.hex()
        directory.mkdir(parents=True)
        for first, last in [(1, 3), (2, 5), (3, 4), (4, 4), (5, 5), (6, 7)]:
            name = write_changes(directory, make(A, first, last), os.urandom)
            if (first, last) == damaged:
                replace(directory / str(name), b"half")
        adapter, _ = connect(folder)
        received: list[SealedChangeset] = []
        cursor, more = None, True
        while more:
            page = pull(adapter, cursor, max_count=count)
            received.extend(page.changesets)
            cursor, more = page.cursor, page.more
        assert received == make(A, 1, 7)

    def test_files_are_read_when_they_are_needed_and_not_again(self, folder: Path) -> None:
        made = [push(folder, A, number, number) for number in range(1, 7)]
        replace(made[4], b"damaged")
        adapter, _ = connect(folder)
        page = pull(adapter, max_count=2)
        assert (numbers(page), page.more, page.warnings) == ([(A, 1), (A, 2)], True, ())
        replace(made[0], b"damaged after it was read")
        page = pull(adapter, page.cursor)
        assert numbers(page) == [(A, 3), (A, 4)]
        assert len(page.warnings) == 1
        assert str(made[4]) in page.warnings[0]

    def test_devices_are_merged_by_stamp(self, folder: Path) -> None:
        for number in range(1, 4):
            push(folder, A, number, number)
            push(folder, B, number, number)
        adapter, _ = connect(folder)
        stamps = [sealed.stamp for sealed in pull(adapter).changesets]
        assert stamps == sorted(stamps)

    def test_a_changeset_that_no_reader_would_take_is_refused(self, folder: Path) -> None:
        adapter, _ = connect(folder, A)
        small, like = make(A, 1, 2)
        large = SealedChangeset(1, A, 2, like.stamp, 1, 0, MAX_CHANGESET_BYTES, like.digest, bytes(MAX_CHANGESET_BYTES))
        result = asyncio.run(adapter.push([small, large]))
        assert result.acknowledged == 1
        assert [refusal.number for refusal in result.refusals] == [2]
        assert len(files(folder)) == 1


class TestOwnFiles:
    def test_what_a_crash_left_half_written_is_swept(self, folder: Path) -> None:
        file = push(folder, A, 1, 1)
        left = file.with_name(f".{file.name}.0123456789ab.tmp")
        left.write_bytes(b"half")
        others = file.parent.with_name(B.hex()) / left.name
        others.parent.mkdir()
        others.write_bytes(b"being written")
        connect(folder, A)
        assert not left.exists()
        assert others.exists()

    def test_an_unreadable_directory_of_our_own_is_not_taken_for_an_empty_one(self, folder: Path) -> None:
        push(folder, A, 1, 1)
        (folder / "p-default" / B.hex()).write_text("a file in the place of a directory")
        with pytest.raises(Offline):
            connect(folder, B)
        adapter, _ = connect(folder)
        page = pull(adapter)
        assert numbers(page) == [(A, 1)]
        assert B.hex() in page.warnings[0]

    def test_a_push_that_was_cancelled_and_ends_later_is_waited_for(self, folder: Path) -> None:
        released = threading.Event()
        held = threading.Event()

        async def run_blocking(work: Callable[..., Any], *arguments: Any) -> Any:
            def slowly() -> Any:
                if work.__name__ == "_push" and not held.is_set():
                    held.set()
                    released.wait(10)
                return work(*arguments)

            return await asyncio.to_thread(slowly)

        async def story() -> int:
            adapter = FolderAdapter(folder, environment=Environment(run_blocking=run_blocking))
            await adapter.connect(Hello(app="todo", partition="default", device=A))
            first = asyncio.ensure_future(adapter.push(make(A, 1, 3)))
            await asyncio.to_thread(held.wait, 10)
            first.cancel()
            await asyncio.wait([first])
            second = asyncio.ensure_future(adapter.push(make(A, 1, 5)))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not second.done()
            released.set()
            return (await second).acknowledged

        assert asyncio.run(story()) == 5
        assert [path.stem[:25] for path in files(folder)] == ["000000000001-000000000003", "000000000004-000000000005"]
