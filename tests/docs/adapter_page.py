"""The package that ``docs/writing-an-adapter.md`` builds, as files: ``python3 adapter_page.py DIRECTORY``.

Standard library only, so that it runs in any environment.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "writing-an-adapter.md"
TEST_HEADING = "## Running the suite\n"
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def code(text: str, language: str) -> str:
    """All blocks of a language, one after the other."""
    return "\n".join(block["code"] for block in FENCE.finditer(text) if block["language"] == language)


def write_package(directory: Path) -> None:
    """What a reader has who copied everything out of the page."""
    page = PAGE.read_text(encoding="utf-8")
    adapter, heading, test = page.partition(TEST_HEADING)
    assert heading, f"{PAGE} has lost its heading {TEST_HEADING!r}"
    files = {"pyproject.toml": code(page, "toml"), "shelf.py": code(adapter, "python"), "test_shelf.py": code(test, "python")}
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_package(Path(sys.argv[1]))
