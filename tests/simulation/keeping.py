"""What a session keeps in memory, found by following its objects: of what it sent, received or told next to nothing may stay.

It follows containers, tasks and what they are about to do, so that whatever piles up is found wherever that is. It stops at the
store, which has its own bounds, and at what is not the library's.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter, deque
from concurrent.futures import Future
from types import CoroutineType, FrameType
from typing import Any

from localstore.sync.state import ConnectionStateChange
from localstore.sync.status import SyncStatus

__all__ = ["kept", "too_much"]

_MAX = 16  # of any kinds; a meter for each direction and the last hint are what a session at rest has a use for
_CONTAINERS = (list, tuple, dict, set, frozenset, deque, asyncio.Future, asyncio.Task, CoroutineType, FrameType)
_FOLLOWED = "localstore.sync"
_VALUES = {"localstore.wire", "localstore.changes", "localstore.adapter", "localstore.sync.news", "localstore.sync.progress"}
_KINDS = (ConnectionStateChange, SyncStatus, Future)


def kept(root: object) -> Counter[str]:
    """How many values of each kind can be reached from an object."""
    found, seen, left = Counter[str](), {id(root)}, [root]
    while left:
        for one in gc.get_referents(left.pop()):
            if id(one) in seen or isinstance(one, type):
                continue
            seen.add(id(one))
            if _is_value(one):  # the last hint may still be held by who waits for the next: what is in it is one value
                found[type(one).__name__] += 1
            elif isinstance(one, _CONTAINERS) or type(one).__module__.startswith(_FOLLOWED):
                left.append(one)
    return found


def too_much(found: Counter[str]) -> bool:
    """Whether that is more than a session at rest has a use for: nobody waits then, and little is remembered."""
    return found["Future"] > 0 or found.total() > _MAX


def _is_value(one: Any) -> bool:
    return isinstance(one, _KINDS) or type(one).__module__ in _VALUES
