"""What a shared folder costs when it holds many files, or gets many small changesets. No realm: the adapter alone."""

import asyncio
import os
import time
from pathlib import Path

from benchmarks.kit import Case, Stopwatch
from localstore.adapter import Hello, Limit
from localstore.testing.conformance import make_changeset
from localstore.wire import encode_batch
from localstore_adapters._folder_files import FileName
from localstore_adapters._folder_history import FolderHistory
from localstore_adapters.folder import FolderAdapter

__all__ = ["CASES"]

DEVICES = 10
WRITER, READER = b"W" * 16, b"R" * 16
BATCH_COUNT = 1_000


def _history(directory: Path, files: int) -> list[Path]:
    """So many files under names of ours, in the directories of ten devices."""
    made = [directory / (bytes([number]) * 16).hex() for number in range(DEVICES)]
    for device in made:
        device.mkdir()
    for number in range(files):
        (made[number % DEVICES] / str(FileName(1 + number // DEVICES, 1 + number // DEVICES, "0" * 16))).touch()
    return made


def rescan(directory: Path, files: int) -> float:
    """Looking for news where there are none, as after every tick of the timer."""
    _history(directory, files)
    history, watch = FolderHistory(directory, READER, time.monotonic), Stopwatch()
    read = {bytes([number]) * 16: files for number in range(DEVICES)}
    history.scan()
    with watch:
        history.scan()
        assert not history.page(read, Limit()).changesets
    return watch.seconds


def list_names(directory: Path, files: int) -> float:
    devices, watch = _history(directory, files), Stopwatch()
    with watch:
        found = sum(len(os.listdir(device)) for device in devices)  # noqa: PTH208 - the quickest there is
    assert found == files
    return watch.seconds


def push_and_pull(directory: Path, count: int) -> float:
    """One-row changesets that one device pushes and another pulls."""
    changesets, watch = [make_changeset(WRITER, number) for number in range(1, count + 1)], Stopwatch()

    async def story() -> int:
        writer, reader = FolderAdapter(directory / "shared"), FolderAdapter(directory / "shared")
        for adapter, device in ((writer, WRITER), (reader, READER)):
            await adapter.connect(Hello(app="benchmarks", partition="default", device=device))
        with watch:
            for first in range(0, count, BATCH_COUNT):
                await writer.push(changesets[first : first + BATCH_COUNT])
            cursor, more, received = None, True, 0
            while more:
                page = await reader.pull(cursor, Limit())
                cursor, more, received = page.cursor, page.more, received + len(page.changesets)
        return received

    assert asyncio.run(story()) == count
    return watch.seconds


def write_and_read(directory: Path, count: int) -> float:
    """The same bytes in as many plain files."""
    batches = [
        encode_batch([make_changeset(WRITER, number) for number in range(first, min(first + BATCH_COUNT, count + 1))])
        for first in range(1, count + 1, BATCH_COUNT)
    ]
    watch = Stopwatch()
    with watch:
        for number, batch in enumerate(batches):
            with (directory / str(number)).open("wb") as file:
                file.write(batch)
                file.flush()
                os.fsync(file.fileno())
        for number, batch in enumerate(batches):
            assert (directory / str(number)).read_bytes() == batch
    return watch.seconds


CASES = (
    Case("files in a folder, looked at again", "listing their names", 10_000, rescan, list_names, aim="50 ms"),
    Case("one-row changesets through a folder", "plain files", 10_000, push_and_pull, write_and_read, aim="2,000 ms"),
)
