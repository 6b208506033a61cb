"""What looking at a shared folder with many files costs: names are text, as a ``Path`` of each interns its name for a while."""

from __future__ import annotations

from pathlib import Path

from localstore.adapter import Limit
from localstore.testing.conformance import make_changeset
from localstore_adapters._folder_files import write_changes
from localstore_adapters._folder_history import FolderHistory
from localstore_adapters._folder_own import check_damaged, count_stored
from tests.unit.folder_lines import A, B, make, replace


class CountedPath(type(Path())):  # type: ignore[misc]  # of the system's kind
    """A path that counts those made below it."""

    made = 0

    def __truediv__(self, name: str) -> Path:
        CountedPath.made += 1
        below: Path = super().__truediv__(name)
        return below


def paths_made(folder: Path, last: int) -> int:
    """How many a device makes that looks, and checks what it is about to write; the end of each device's history is damaged."""
    for device in (A, B):
        for number in range(1, last + 1):
            name = write_changes(folder / device.hex(), [make_changeset(device, number)], bytes)
        replace(folder / device.hex() / str(name), b"")
    history = FolderHistory(CountedPath(folder), A, monotonic=lambda: 0.0)
    history.scan()
    history.page({B: last - 1}, Limit())
    assert history.last_own_number() == last
    before = CountedPath.made
    history.scan()
    assert history.last_own_number() == last
    assert history.count_all_after({}) == 2 * (last - 1)
    batch = make(A, last + 1, last + 1)
    assert count_stored(history, batch) == 0
    check_damaged(history, batch)
    assert len(history.damaged_own_files()) == 1
    return CountedPath.made - before


def test_no_more_paths_are_made_where_there_are_more_files(tmp_path: Path) -> None:
    made = []
    for last in (5, 50):
        folder = tmp_path / str(last)
        for device in (A, B):
            (folder / device.hex()).mkdir(parents=True)
        made.append(paths_made(folder, last))
    assert made[0] == made[1]
