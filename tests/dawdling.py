"""A pytest plugin: whoever tests dawdles after every public call of a session, so that what runs in the background gets ahead;
or the background does, so that it is behind.

Tests that hold by being faster than a session, or slower, fail now and then on a busy machine. With this they fail at once::

    python3 dev.py test -n auto -p tests.dawdling
    python3 dev.py test -n auto -p tests.dawdling --dawdling background

It watches by Python's profiler and changes nothing of what is tested. It knows no test.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

_SECONDS = {"test": 0.004, "background": 0.002}  # in 4 ms a session in memory does all that it has to do
_TESTS = {"MainThread", "test"}  # the threads of tests; ``session_kit.in_thread`` names the others
_MODULES = {"localstore.realm", "localstore.sync.session", "localstore.testing.memory", "localstore.user"}
_NOT_A_CALL = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--dawdling", choices=_SECONDS, default="test", help="who is slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    watch = _watch(item.config.getoption("--dawdling"))
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        return (yield)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def _watch(who: str) -> Callable[[FrameType, str, Any], None]:
    """What the profiler calls for everything that a new thread, or this one, begins and ends."""
    is_over = {"test": _is_a_call, "background": _is_a_turn}[who]

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and is_over(frame) and (threading.current_thread().name in _TESTS) == (who == "test"):
            time.sleep(_SECONDS[who])

    return watch


def _is_a_call(frame: FrameType) -> bool:
    code = frame.f_code
    if code.co_name.startswith(("_", "<")) or code.co_flags & _NOT_A_CALL or asyncio._get_running_loop() is not None:
        return False
    return frame.f_globals.get("__name__") in _MODULES


def _is_a_turn(frame: FrameType) -> bool:
    """Of an event loop."""
    return frame.f_code.co_name == "_run_once"
