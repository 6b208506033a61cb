"""An application's own rule about who may do what, named in settings as ``module:function``.

The function gets a person and a partition and returns ``Access``, or None where it leaves the answer to grants. What goes wrong
in it lets nobody in. This module knows no database.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

from localstore.environment import Environment
from localstore.hub.access import Access, Person
from localstore.hub.accounts.names import shown

__all__ = ["Rule", "ask", "load_rule"]

Rule = Callable[[Person, str], Any]
"""Returns ``Access | None``, or is a coroutine function that does."""
ANSWER_SECONDS = 10.0
_log = logging.getLogger("localstore.hub.accounts")


def load_rule(name: str) -> Rule:
    """The function that ``module:function`` names.

    Raises:
        ValueError: there is none.
    """
    module_name, _, function_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), function_name) if module_name and function_name else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The rule {shown(name)} cannot be loaded: {error}.") from error
    if not callable(found):
        raise ValueError(f"{shown(name)} names no rule. Write it as 'module:function', the module as for import.")
    rule: Rule = found
    return rule


async def ask(rule: Rule, person: Person, partition: str, environment: Environment) -> Access | None:
    """What the rule says; ``NONE`` when it fails, answers something else, or takes too long. One that is not async runs in a
    worker thread.
    """
    try:
        async with environment.timeout(ANSWER_SECONDS):
            if inspect.iscoroutinefunction(rule):
                answer = await rule(person, partition)
            else:
                answer = await environment.run_blocking(rule, person, partition)
    except Exception:  # noqa: BLE001  whatever the application's code raises
        _log.exception("the access rule failed for user %s and partition %s", shown(person.user_id), shown(partition))
        return Access.NONE
    if answer is None or isinstance(answer, Access):
        return answer
    _log.error("the access rule returned %s, not an Access", type(answer).__name__)
    return Access.NONE
