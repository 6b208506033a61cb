"""Where a snapshot lies while it is fetched or sent: beside its realm's file, and in memory when that file is encrypted.

What a crash left there is removed when the next one is made. What a snapshot is for is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from localstore.store import memory
from localstore.store.file import Store

__all__ = ["snapshot_place"]


@contextmanager
def snapshot_place(store: Store, random_bytes: Callable[[int], bytes]) -> Iterator[Path | None]:
    """A path where nothing is yet, for the block; what lies there is removed in the end.

    A snapshot is a plain file. That of an encrypted store may lie in memory alone: where the system has no such place, there is
    None.
    """
    unique = store.path.with_name(f"{store.path.name}.snapshot-{random_bytes(4).hex()}")
    with ExitStack() as stack:
        if store.options.encryption_key is None:
            path = unique
            for left in _leftovers(store.path):
                _remove(left)
        elif memory.is_memory():
            path = stack.enter_context(memory.place(unique)).with_name("snapshot")
        else:
            yield None
            return
        stack.callback(_remove, path)
        yield path


def _leftovers(file: Path) -> list[Path]:
    name = re.compile(re.escape(f"{file.name}.snapshot-") + "[0-9a-f]{8}")
    return [path for path in file.parent.iterdir() if name.fullmatch(path.name)]


def _remove(path: Path) -> None:
    with suppress(OSError):  # it is removed when the next one is made
        path.unlink(missing_ok=True)
