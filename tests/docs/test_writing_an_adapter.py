"""The adapter that the guide builds keeps the contract as printed, and with a bug in it, does not.

``.ci/run`` installs it beside the built wheel and runs the suite there. Here it is only put on the path, with what an installer
would write down about its scheme.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from localstore.adapter import SyncAdapter
from localstore.testing.conformance import AdapterConformance
from tests.docs.adapter_page import PAGE, code, write_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    directory = tmp_path / "shelf"
    write_package(directory)
    project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = directory / "localstore_shelf-0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return directory


def run_suite(package: Path, chosen: str = "") -> tuple[set[str], str]:
    """Run the package's tests in CI; the names of those that failed, and what was printed."""
    path = os.pathsep.join([str(package), *filter(None, sys.path)])
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "-k", chosen, "test_shelf.py"]
    environment = {**os.environ, "CI": "true", "PYTHONPATH": path}
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert " passed" in done.stdout or " failed" in done.stdout, done.stdout
    return set(re.findall(r"^FAILED .*::(\w+)", done.stdout, re.MULTILINE)), done.stdout


def test_realms_converge_over_the_guides_adapter(package: Path, tmp_path: Path) -> None:
    adapter: Callable[[Path], SyncAdapter] = runpy.run_path(str(package / "shelf.py"))["ShelfAdapter"]

    class Shelf:
        def make_adapter(self) -> SyncAdapter:
            return adapter(tmp_path / "notes.shelf")

    AdapterConformance().test_two_realms_converge(Shelf(), tmp_path)


@pytest.mark.slow
def test_the_guides_adapter_keeps_every_rule(package: Path) -> None:
    failed, printed = run_suite(package)
    assert failed == set(), printed


@pytest.mark.slow
def test_the_example_of_the_page_about_adapters_keeps_every_rule(tmp_path: Path) -> None:
    (tmp_path / "test_shelf.py").write_text(code(PAGE.with_name("adapters.md").read_text(encoding="utf-8"), "python"))
    failed, printed = run_suite(tmp_path)
    assert failed == set(), printed


@dataclass(frozen=True)
class Bug:
    """Changes of the guide's code, and the rule that the guide says they break."""

    rule: str
    changes: dict[str, str]


PUSH = "        return await asyncio.to_thread(self._push, self._connected(), batch)\n"
BUGS = {
    "no dedup": Bug(
        "test_push_twice_stores_once",
        {", UNIQUE (part, device, number)": "", "if sealed.number > last:": "if sealed.number > 0:"},
    ),
    "cursor skips": Bug(
        "test_pages_join_without_gap_or_repeat",
        {"                if more:\n": "                if more:\n                    place = following\n"},
    ),
    "not atomic": Bug(
        "test_a_push_cancelled_at_any_wait_leaves_all_or_nothing_of_each_changeset",
        {
            PUSH: """
        hello = self._connected()
        keys = [(hello.partition, hello.device, sealed.number) for sealed in batch]
        with self._shelf() as db:
            db.executemany("INSERT OR IGNORE INTO changeset VALUES (NULL, ?, ?, ?, NULL)", keys)
        await asyncio.sleep(0)
        with self._shelf() as db:
            for key, sealed in zip(keys, batch):
                db.execute("UPDATE changeset SET sealed = ? WHERE (part, device, number) = (?, ?, ?)", (encode(sealed), *key))
        return PushResult(acknowledged=batch[-1].number)
"""
        },
    ),
    "swallowed errors": Bug(
        "test_every_call_says_offline_when_the_remote_is_out_of_reach",
        {
            PUSH: """
        with contextlib.suppress(Offline):
            await asyncio.to_thread(self._push, self._connected(), batch)
        return PushResult(acknowledged=batch[-1].number)
"""
        },
    ),
    "any cursor": Bug("test_a_cursor_of_a_replaced_remote_is_unknown", {"owner != remote_id.encode() or ": ""}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_bug_planted_in_the_guides_adapter_is_caught_by_the_rule_that_the_guide_names(package: Path, name: str) -> None:
    bug = BUGS[name]
    assert f"`{bug.rule}`" in PAGE.read_text(encoding="utf-8")
    source = (package / "shelf.py").read_text(encoding="utf-8")
    for right, wrong in bug.changes.items():
        assert source.count(right) == 1
        source = source.replace(right, wrong)
    (package / "shelf.py").write_text(source, encoding="utf-8")
    failed, printed = run_suite(package, bug.rule)
    assert failed == {bug.rule}, printed
