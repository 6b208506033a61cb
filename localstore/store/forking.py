"""What becomes of open files when the process forks: they stay the parent's, and the child can neither use nor harm them.

SQLite does not work across a fork: its locks belong to the parent, and its memory says that the child has them. A child that
went on with such a connection, or only closed it, could remove the parent's write-ahead log or undo half of its
transaction; and as SQLite keeps one list of open files for the whole process, a new connection to such a file would take no
locks either. So in the child every connection that the parent had refuses its service and is never closed, and no
file can be opened (https://www.sqlite.org/howtocorrupt.html §2.6). Objects that wait for threads, which the child does not
have, refuse their service as well.

Knows connections, not what is done with them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import weakref
from types import ModuleType
from typing import Any, Protocol, TypeVar

from localstore.errors import ForkedProcess

__all__ = ["begins_anew", "check_same_process", "connection_class", "kept_for_ever", "left_behind", "of_this_process"]

T = TypeVar("T")
Renewed = TypeVar("Renewed", bound="Renewable")

_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""Connections of this process that may be open; of the process, as forks are."""
_bound: weakref.WeakSet[Any] = weakref.WeakSet()
"""Objects that are of no use without this process's threads."""
_renewable: weakref.WeakSet[Any] = weakref.WeakSet()
"""Objects that a forked child can use as if they were new."""
_QUIET = ("close", "end")  # what whoever leaves a block calls


class Renewable(Protocol):
    """What can be used in a forked child after all."""

    def leave_to_parent(self) -> None:
        """Forget what there was, without touching it: no other thread runs, and those that did may hold its locks."""


def left_behind(what: object) -> ForkedProcess:
    """The error for a use of something that is the parent's."""
    return ForkedProcess(
        f"{what} cannot be used here: realms were open when this process was forked, and they are its parent's alone."
        " Nothing was touched.",
        hint="Fork before a realm is opened, or start processes with subprocess, or multiprocessing's 'spawn' or 'forkserver'.",
    )


@functools.cache
def connection_class(module: ModuleType) -> type[Any]:
    """A driver's connections, such that a forked child cannot use them."""
    _watch_forks()

    class Connection(module.Connection):  # type: ignore[misc, name-defined]
        """A connection that is known to this process."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            _open.add(self)

    class Inherited(Connection):
        """What such a connection is in a forked child."""

        def close(self) -> None:
            """Do nothing: it would take the parent's files away."""

        rollback = interrupt = close

        def _refuse(self, *args: Any, **kwargs: Any) -> Any:
            raise left_behind("A connection to a realm's file")

        cursor = execute = executemany = executescript = commit = backup = iterdump = _refuse

    Connection.inherited = Inherited
    return Connection


def of_this_process(thing: T) -> T:
    """Let an object refuse its service in forked children; its class must be one of Python's, without slots."""
    _watch_forks()
    _bound.add(thing)
    return thing


def begins_anew(thing: Renewed) -> Renewed:
    """Let an object be told in forked children that all it had is its parent's."""
    _watch_forks()
    _renewable.add(thing)
    return thing


def kept_for_ever(thing: object) -> None:
    """Let an object never be destroyed, not even when the interpreter ends: what that would do is its parent's business."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def check_same_process(process: int, what: object) -> None:
    """Raise ``ForkedProcess`` in any process but the one of this number."""
    if process != os.getpid():
        raise left_behind(what)


@functools.cache
def _watch_forks() -> None:
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=_leave_all)


def _leave_all() -> None:
    for connection in list(_open):
        kept_for_ever(connection)
        connection.__class__ = connection.inherited
    _open.clear()
    for thing in list(_bound):
        thing.__class__ = _refusing(type(thing))
    _bound.clear()
    for renewable in list(_renewable):
        renewable.leave_to_parent()


def _refusing(kind: type[Any]) -> type[Any]:
    class Inherited(kind):  # type: ignore[misc]
        """An object of the parent's, in which locks may be held by threads that are not there."""

        def __getattribute__(self, name: str) -> Any:
            if name in _QUIET:
                return _do_nothing
            if name.startswith("__"):
                return object.__getattribute__(self, name)
            raise left_behind(f"A {kind.__name__}")

    return Inherited


def _do_nothing(*args: object, **kwargs: object) -> None:
    pass
