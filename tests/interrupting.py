"""``KeyboardInterrupt`` at every place of the main thread where Python looks for signals, one after the other.

It looks for them when a function is entered and after a call, but not on the way into a ``with`` block of a lock; a profile
function that raises does so at these places and no others, and what it raises comes from where a signal's would. So nothing is
tried here that cannot happen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import CO_GENERATOR
from types import CodeType, FrameType
from typing import Any

__all__ = ["Interruptions"]

_Place = tuple[CodeType, int, str, CodeType | None, int]


class Interruptions:
    """Interrupts each run of something at the first place where no other run was interrupted before.

    Args:
        is_tried: whether places in a source file are tried, by its path.
    """

    def __init__(self, is_tried: Callable[[str], bool]) -> None:
        self._is_tried = is_tried
        self._seen: set[_Place] = set()

    def run(self, work: Callable[[], object]) -> str | None:
        """Run ``work`` until it is interrupted; returns where, and None when there is no place left.

        Raises:
            BaseException: what came of the interruption, if not ``KeyboardInterrupt``.
        """
        where: list[str] = []

        def look(frame: FrameType, event: str, _: Any) -> None:
            if where or event == "c_call" or not self._is_tried(frame.f_code.co_filename):
                return
            if event != "c_return" and frame.f_code.co_flags & CO_GENERATOR:  # which would end without its ``finally``
                return
            caller = frame.f_back
            place = (frame.f_code, frame.f_lasti, event, caller and caller.f_code, caller.f_lasti if caller else 0)
            if place not in self._seen:
                self._seen.add(place)
                where.append(f"{event} in {frame.f_code.co_qualname}, {frame.f_code.co_filename}:{frame.f_lineno}")
                raise KeyboardInterrupt

        sys.setprofile(look)
        try:
            work()
        except BaseException as error:
            sys.setprofile(None)
            if not _led_to(error, KeyboardInterrupt):
                raise
        finally:
            sys.setprofile(None)
        return where[0] if where else None


def _led_to(error: BaseException | None, cause: type[BaseException]) -> bool:
    return error is not None and (isinstance(error, cause) or _led_to(error.__cause__ or error.__context__, cause))
