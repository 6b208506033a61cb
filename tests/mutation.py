"""What pytest needs in a mutation run, and only there: mutmut loads it (``[tool.mutmut]`` in ``pyproject.toml``)."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings

# The same examples for every mutant, and none made smaller once one has failed: that it did is all there is to know.
settings.register_profile("mutation", phases=(Phase.explicit, Phase.generate), derandomize=True, database=None)
settings.load_profile("mutation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests the attribute by which mutmut 3.8 notes which of them reach a function, and pytest 9.2 has no more."""
    for item in items:
        item.__dict__.setdefault("_nodeid", item.nodeid)
