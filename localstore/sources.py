"""Where settings come from besides arguments: the environment and two TOML files, and what is wrong with what they say.

Names are checked here, so that a misspelt one is refused with the nearest that exists instead of being ignored. What
a value may be is known to ``settings`` alone. No message tells a value: it may be a password.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["HUB_PREFIX", "PREFIX", "Source", "environment", "files", "refuse_unknown"]

PREFIX = "LOCALSTORE_"
HUB_PREFIX = "LOCALSTORE_HUB_"
"""What begins so is for a hub, and nothing to a device on the same computer."""
_FILE = "localstore.toml"
_PROJECT_FILE = "pyproject.toml"

# What Kubernetes puts into every container when a service of the cluster is called localstore, or localstore-something.
_OF_KUBERNETES = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


@dataclass(frozen=True)
class Source:
    """One place that settings are read from.

    Attributes:
        name: what it is called in messages.
        values: what it says, by the setting's name.
        spelling: how a setting is spelt there, where it differs from its name.
        prefix: how names begin there that are spelt so.
    """

    name: str
    values: Mapping[str, Any]
    spelling: Mapping[str, str]
    prefix: str = PREFIX

    def says(self, setting: str) -> str:
        """What a message calls a setting of this source."""
        return f"{self.spelling.get(setting, setting)} in {self.name}"


def environment(variables: Mapping[str, str], *, prefix: str = PREFIX) -> Source:
    """The variables that begin with ``LOCALSTORE_``, or another prefix, in capitals or not.

    Raises:
        ValueError: a variable is there twice, in capitals and in small letters.
    """
    values: dict[str, str] = {}
    spelling: dict[str, str] = {}
    for variable, value in variables.items():
        name = variable.upper().removeprefix(prefix)
        if name == variable.upper() or _OF_KUBERNETES.fullmatch(name):
            continue
        if prefix != HUB_PREFIX and variable.upper().startswith(HUB_PREFIX):
            continue
        if name.lower() in values:
            raise ValueError(f"{spelling[name.lower()]} and {variable} are both set in the environment. Unset one of them.")
        values[name.lower()], spelling[name.lower()] = value, variable
    return Source("the environment", values, spelling, prefix)


def files(directory: Path) -> list[Source]:
    """``localstore.toml`` and ``[tool.localstore]`` of ``pyproject.toml``, as far as they are there; the first one wins.

    Raises:
        ValueError: a file cannot be read, is not TOML, or the table is none.
    """
    found = []
    if (values := _read(directory / _FILE)) is not None:
        found.append(Source(_FILE, values, {}))
    if (project := _read(directory / _PROJECT_FILE)) is not None:
        tools = project.get("tool", {})
        values = tools.get("localstore", {}) if isinstance(tools, dict) else {}
        if not isinstance(values, dict):
            raise ValueError(
                f"tool.localstore in {_PROJECT_FILE} is not a table. Write [tool.localstore] and the settings below it."
            )
        found.append(Source(f"[tool.localstore] of {_PROJECT_FILE}", values, {}))
    return found


def refuse_unknown(sources: Iterable[Source], known: Collection[str]) -> None:
    """Refuse what is no setting.

    Raises:
        ValueError: names everything unknown, where it is, and the nearest name that exists.
    """
    problems = [
        f"{source.says(name)} is no setting.{_nearest(name, source, known)}"
        for source in sources
        for name in source.values
        if name not in known
    ]
    if problems:
        raise ValueError(f"{' '.join(problems)} Correct or remove it; the settings are {', '.join(sorted(known))}.")


def _nearest(name: str, source: Source, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1)
    if not near:
        return ""
    return f" Did you mean {source.prefix + near[0].upper() if name in source.spelling else near[0]}?"


def _read(path: Path) -> dict[str, Any] | None:
    """A TOML file's content, None when there is no such file."""
    if not path.exists():
        return None
    try:
        return _parsed(path.read_text(encoding="utf-8-sig"))
    except OSError as error:  # a folder, or a file that this user may not read
        problem = str(error.strerror)
    except UnicodeDecodeError:
        problem = "it is not UTF-8 text"
    except tomllib.TOMLDecodeError as error:
        problem = str(error)  # says the line, and quotes one character at most
    except RecursionError:
        problem = "it is nested too deeply"
    raise ValueError(f"{path.name} cannot be read: {problem}. Correct it; the settings in it were not used.")


@functools.lru_cache(maxsize=4)
def _parsed(text: str) -> dict[str, Any]:
    """What a TOML text says; settings are made for every app, and a project's file is long and seldom another one."""
    return tomllib.loads(text)
