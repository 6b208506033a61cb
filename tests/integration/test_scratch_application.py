"""The scratch application lives through every kind of change with this interpreter; ``.ci/run`` repeats it with the wheel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.scratch_application.changes import CHANGES, Change
from tests.integration.scratch_application.story import begin, live_through
from tests.integration.scratch_application.world import Processes, World


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Processes() as processes:
        yield begin(processes, tmp_path_factory.mktemp("scratch") / "begun")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change"), CHANGES.items(), ids=CHANGES)
def test_three_devices_of_different_age_agree_all_the_way_there_and_back(
    begun: World, tmp_path: Path, name: str, change: Change
) -> None:
    live_through(begun.copy_to(tmp_path / "world"), name, change)
