"""The names that users import: they are those that were promised, explained, and cheap to get."""

from __future__ import annotations

import enum
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import pytest

import localstore
from localstore import errors
from localstore.errors import LocalStoreError, SyncError

PROMISED = {
    "App", "Credentials", "User", "UserState", "Realm", "LocalConfiguration", "SyncConfiguration", "Settings",
    "SessionState", "ConnectionState", "ConnectionStateChange", "Direction", "ProgressMode", "Progress", "uuid7",
    "SyncStatus", "Reason",
    "ClientResetReport", "Discard", "Manual", "Recover", "RecoverOrDiscard", "ResetReason", "SeedRemote",
}  # fmt: skip
"""What the design fixes, and what ``session.status`` is made of."""

SLOW_OR_OPTIONAL = (
    "alembic",
    "sqlcipher3",
    "cryptography",
    "watchfiles",
    "rich",
    "pydantic_settings",
    "pytest",
    "hypothesis",
    "localstore_adapters",
)

FATAL = {
    "Unauthorized", "ResetRequired", "ClientResetRequired", "ClientResetFailed", "ProtocolError", "MalformedChangeset",
    "NewerFormat", "WrongKey",
}  # fmt: skip

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(localstore.__path__, "localstore.")
    if not name.startswith(("localstore.testing.conformance", "localstore.store.migrations"))
]
ERRORS = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__]


def drawn_tree() -> dict[str, str]:
    """``error -> base`` as drawn in the docstring of ``localstore.errors``."""
    drawing = [line for line in (errors.__doc__ or "").splitlines() if re.match(r"    +(\w|[├└│])", line)]
    parents: dict[str, str] = {}
    open_branches: list[tuple[int, str]] = []
    for line in drawing:
        column = len(line) - len(line.lstrip(" │├└"))
        names = re.split(r"\s{2,}", line.strip(" │├└"))
        names = [name for name in names if re.fullmatch(r"[A-Z]\w+", name)]
        while open_branches and open_branches[-1][0] >= column:
            open_branches.pop()
        for name in names:
            parents[name] = open_branches[-1][1] if open_branches else ""
        open_branches.append((column, names[-1]))
    return parents


def test_the_public_names_are_those_that_were_promised() -> None:
    assert set(localstore.__all__) == PROMISED


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_every_public_name_can_be_imported_and_explains_itself(name: str) -> None:
    value = getattr(localstore, name)
    assert inspect.getdoc(value)
    assert name in dir(localstore) or name == "Settings"
    namespace: dict[str, object] = {}
    exec(f"from localstore import {name}", namespace)
    assert namespace[name] is value


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_every_public_method_explains_itself(name: str) -> None:
    value = getattr(localstore, name)
    if not inspect.isclass(value) or issubclass(value, enum.Enum):
        return
    members = {key: member for key, member in vars(value).items() if not key.startswith("_") and not key.startswith("model_")}
    explained = [key for key, member in members.items() if inspect.getdoc(getattr(member, "__func__", member))]
    callables = [
        key for key, member in members.items() if callable(getattr(member, "__func__", member)) or isinstance(member, property)
    ]
    assert set(callables) <= set(explained)


@pytest.mark.parametrize("module", ["localstore", *MODULES])
def test_every_module_lists_what_it_offers_sorted(module: str) -> None:
    loaded = import_module(module)
    assert loaded.__doc__
    offered = getattr(loaded, "__all__", [])
    assert len(set(offered)) == len(offered)
    assert sorted(offered, key=sorting) == list(offered)
    assert [name for name in offered if not hasattr(loaded, name)] == []


def sorting(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as isort and ruff sort."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


def test_the_version_is_that_of_the_distribution() -> None:
    assert localstore.__version__ == version("localstore-sync")


def test_an_unknown_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="'localstore' has no attribute 'Counter'"):
        _ = localstore.Counter


class TestErrors:
    def test_all_are_offered(self) -> None:
        assert set(errors.__all__) == {error.__name__ for error in ERRORS}

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
    def test_each_explains_itself(self, error: type[LocalStoreError]) -> None:
        assert vars(error).get("__doc__")
        assert issubclass(error, LocalStoreError)

    def test_the_tree_is_drawn_as_it_is(self) -> None:
        assert drawn_tree() == {
            error.__name__: "" if error is LocalStoreError else error.__mro__[1].__name__
            for error in ERRORS
            if error.__name__ != "RateLimited"
        } | {"RateLimited": "SyncError"}  # a Busy with another name; drawn beside it to keep the picture small

    @pytest.mark.parametrize(
        "error", [error for error in ERRORS if issubclass(error, SyncError)], ids=lambda error: error.__name__
    )
    def test_those_that_end_a_session_are_the_ones_that_do_not_pass_by_themselves(self, error: type[SyncError]) -> None:
        assert error.is_fatal is (error.__name__ in FATAL)

    def test_a_message_and_its_hint_are_read_together(self) -> None:
        error = LocalStoreError("The disk is full.", hint="Make room.")
        assert str(error) == "The disk is full. Make room."
        assert (error.message, error.hint) == ("The disk is full.", "Make room.")
        assert str(LocalStoreError("The disk is full.")) == "The disk is full."

    def test_errors_carry_what_the_caller_needs(self) -> None:
        assert errors.Busy("full", retry_after=3).retry_after == 3
        assert errors.RateLimited("slow", retry_after=3).retry_after == 3
        assert errors.Busy("full").retry_after is None
        assert errors.Refused("no", number=7).number == 7
        assert errors.ResetRequired("device forked").reason == "device forked"
        assert "device forked" in str(errors.ResetRequired("device forked"))
        assert errors.CompensatingWrite("no", writes=(("task", (1,), "not yours"),)).writes[0][0] == "task"


class TestImporting:
    def run(self, script: str) -> str:
        done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, encoding="utf-8", timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_importing_the_package_imports_nothing_that_may_not_be_needed(self) -> None:
        loaded = self.run("import localstore, sys; print(*sys.modules)").split()
        assert [name for name in SLOW_OR_OPTIONAL if name in loaded] == []

    def test_the_memory_remote_needs_no_test_tools(self) -> None:
        loaded = self.run("import localstore.testing.memory, sys; print(*sys.modules)").split()
        assert [name for name in ("pytest", "_pytest", "hypothesis") if name in loaded] == []

    def test_settings_are_loaded_when_they_are_named(self) -> None:
        assert self.run("import localstore; print(localstore.Settings.__name__)").strip() == "Settings"

    def test_importing_starts_no_thread(self) -> None:
        assert self.run("import localstore, threading; print(threading.active_count())").strip() == "1"
