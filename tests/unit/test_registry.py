"""Adapters are found by the scheme of a URL, when they are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from localstore.registry import adapter_factory, known_schemes
from localstore.testing.memory import MemoryAdapter
from localstore_adapters.folder import FolderAdapter


def test_our_own_schemes_are_installed() -> None:
    assert {"folder", "memory"} <= set(known_schemes())
    assert known_schemes() == sorted(known_schemes())


def test_a_factory_makes_a_new_line_each_time(tmp_path: Path) -> None:
    make = adapter_factory(f"folder://{tmp_path}/todo")
    one, other = make(), make()
    assert one is not other
    assert isinstance(one, FolderAdapter)
    assert one.folder == tmp_path / "todo"
    assert isinstance(adapter_factory("memory://todo")(), MemoryAdapter)


@pytest.mark.parametrize("remote", ["todo", "/mnt/share/todo", ""])
def test_what_is_no_url_is_refused_with_an_example(remote: str) -> None:
    with pytest.raises(ValueError, match="folder:///mnt/share/todo"):
        adapter_factory(remote)


def test_an_unknown_scheme_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"'carrier-pigeon'.*folder.*memory"):
        adapter_factory("carrier-pigeon://loft")


def test_no_adapter_is_loaded_before_it_is_asked_for() -> None:
    program = (
        "import sys, localstore.registry as registry\n"
        "registry.known_schemes()\n"
        "adapters = {'localstore_adapters.folder', 'localstore.testing.memory', 'watchfiles'}\n"
        "assert not adapters & set(sys.modules)\n"
        "registry.adapter_factory('memory://todo')()\n"
        "assert 'localstore.testing.memory' in sys.modules\n"
        "assert not {'localstore_adapters.folder', 'pytest', 'hypothesis'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
