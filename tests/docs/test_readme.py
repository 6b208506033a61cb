"""What the README and the guides print is run as it is printed."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"writing-an-adapter.md"}
"""Pages that are no script but a package; see ``test_writing_an_adapter``."""
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("**/*.md")) if page.name not in PACKAGES)]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"encryption.md": "sqlcipher3", "hub-users.md": "argon2", "remote-encryption.md": "cryptography"}
"""Pages about an extra that not every machine has a wheel for."""
SLOW = {"hub-users.md", "migrations.md"}
"""Pages that run many programs."""
README_LINES_MAX = 30


def run(script: str, directory: Path) -> None:
    """Run a script in an empty directory, as somebody would who copied it out of the page."""
    (directory / "copied.py").write_text(script, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCALSTORE_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "copied.py"],
        cwd=directory,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def page_as_script(page: str) -> str:
    """All of a page's Python blocks in one namespace, each on the lines where the page has it."""
    lines = [""] * page.count("\n")
    for block in BLOCK.finditer(page):
        first = page.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n"


def test_the_readmes_first_example_runs_as_printed(tmp_path: Path) -> None:
    block = BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert block is not None
    assert block[1].count("\n") <= README_LINES_MAX
    run(block[1], tmp_path)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in PAGES],
)
def test_every_python_block_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    needed = NEEDS.get(page.name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    run(page_as_script(page.read_text(encoding="utf-8")), tmp_path)


def test_blocks_keep_their_lines() -> None:
    page = "# Title\n\n```python\na = 1\nb = 2\n```\n\ntext\n\n```sh\nls\n```\n\n```python\nc = a + b\n```\n"
    assert page_as_script(page).splitlines()[:15] == [""] * 3 + ["a = 1", "b = 2"] + [""] * 9 + ["c = a + b"]
