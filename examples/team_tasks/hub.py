"""What whoever runs the hub does, with the same commands as in a shell."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["command", "serving"]

_HUB = [sys.executable, "-m", "localstore.cli", "hub"]


def command(store: str, *arguments: str, typed: str = "") -> str:
    """``localstore hub ARGUMENTS --store STORE``: what it prints.

    Args:
        store: URL of the hub's database.
        arguments: the command.
        typed: what it reads.
    """
    told = subprocess.run([*_HUB, *arguments, "--store", store], input=typed, stdout=subprocess.PIPE, text=True, check=True)
    return told.stdout.strip()


@contextmanager
def serving(store: str, log: Path) -> Iterator[str]:
    """A hub that runs inside the block, on a free port of this computer.

    Args:
        store: URL of its database.
        log: the file that it writes to.

    Yields:
        Its URL.
    """
    arguments = [*_HUB, "serve", "--app", "team-tasks", "--store", store, "--port", "0"]
    with log.open("a") as file, subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=file, text=True) as hub:
        assert hub.stdout is not None
        try:
            said = hub.stdout.readline()  # Serving 'team-tasks' on http://127.0.0.1:41873
            if not said:
                raise RuntimeError(f"The hub did not start; {log} says why.")
            yield said.split()[-1]
        finally:
            hub.terminate()
