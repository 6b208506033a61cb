"""``python -m scratch_application FOLDER [CHANGE ...]``: live through the changes with this Python, in an empty folder."""

import sys
import time
import traceback
from pathlib import Path

from .changes import CHANGES
from .story import begin, live_through
from .world import Processes


def main(folder: Path, names: list[str]) -> int:
    """How many changes went wrong."""
    failed = 0
    with Processes() as processes:
        began = time.monotonic()
        world = begin(processes, folder / "begin")
        sys.stdout.write(f"begin: {time.monotonic() - began:.1f} s\n")
        for name in names or CHANGES:
            began = time.monotonic()
            try:
                live_through(world.copy_to(folder / name.replace(" ", "-")), name, CHANGES[name])
            except AssertionError:
                failed += 1
                traceback.print_exc()
            sys.stdout.write(f"{name}: {time.monotonic() - began:.1f} s\n")
            sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
