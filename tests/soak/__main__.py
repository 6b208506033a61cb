"""Devices under churn for hours: ``python -m tests.soak --hours 2``; ``--minutes 2`` for a first look.

Prints what they take every few minutes, and in the end of each figure whether it is flat: memory, threads, open files, the size
of each database and of its WAL, and what lies at the remote. Ends with 1 when one is not, and with an error when a device
failed, or when they do not all show the same in the end.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.soak.running import REMOTES, Soak, same_rows, soak

LINES = 40  # in a run
LINE_SECONDS_MIN = 15.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--hours", type=float, help="how long")
    length.add_argument("--minutes", type=float, help="how long")
    parser.add_argument("--devices", type=int, default=4, help="how many")
    parser.add_argument("--remote", choices=REMOTES, default="folder", help="what they sync through")
    parser.add_argument("--seed", type=int, default=0, help="another number makes other churn")
    arguments = parser.parse_args()
    seconds = arguments.hours * 3600 if arguments.minutes is None else arguments.minutes * 60
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        run = soak(
            Path(folder),
            seconds=seconds,
            devices=arguments.devices,
            remote=arguments.remote,
            seed=arguments.seed,
            tell=Teller(max(seconds / LINES, LINE_SECONDS_MIN)),
        )
        same = same_rows(Path(folder), arguments.devices)
    print(f"all devices show {same} rows, the same")
    return report(run, arguments.remote)


class Teller:
    """Says something now and then."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = 0.0

    def __call__(self, passed: float, run: Soak) -> None:
        if passed >= self._next:
            self._next = passed + self._every
            print(f"{time.strftime('%H:%M:%S')} after {passed / 60:.1f} min: {run.now()}", flush=True)


def report(run: Soak, remote: str) -> int:
    """Print what became of each figure; 1 when one was not flat."""
    total = sum((Counter(counts) for counts in run.counts.values()), Counter[str]())
    print(", ".join(f"{count} × {name}" for name, count in total.most_common()))
    grew = 0
    for who, name, verdict in run.verdicts(remote):
        print(f"{'flat ' if verdict.is_flat else 'GROWS'}  {who:<10} {name:<13} {verdict}")
        grew += not verdict.is_flat
    print(f"{grew} figures are not flat" if grew else "all figures are flat")
    return int(bool(grew))


if __name__ == "__main__":
    sys.exit(main())
