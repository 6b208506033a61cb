"""Devices, a remote and all that may go wrong between them, by chance: ``python -m tests.simulation --seed 1 --minutes 5``.

Ends with 1, the seed and the last that happened when something did not hold. ``--runs 1 --trace`` shows all of one run.
"""

import argparse
import sys
import time

from tests.simulation.plan import plan
from tests.simulation.world import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first run's")
    parser.add_argument("--runs", type=int, help="how many, each with the next seed")
    parser.add_argument("--minutes", type=float, help="go on for so long")
    parser.add_argument("--trace", action="store_true", help="show everything that happens")
    arguments = parser.parse_args()
    runs = arguments.runs if arguments.runs is not None else (None if arguments.minutes else 1)
    return search(arguments.seed, runs, arguments.minutes, trace=arguments.trace)


def search(seed: int, runs: int | None, minutes: float | None, *, trace: bool) -> int:
    """Run until one fails, or there were enough."""
    begun, steps, done, failed = time.monotonic(), 0, 0, False
    while (runs is None or done < runs) and (minutes is None or time.monotonic() - begun < minutes * 60) and not failed:
        outcome = run(plan(seed + done), tell=print if trace else None)
        steps, done = steps + outcome.steps, done + 1
        if outcome.failure is not None:
            failed = True
            if not trace:
                print("\n".join(outcome.last))
            print(f"seed {seed + done - 1} failed after {outcome.steps} steps: {outcome.failure}")
    seconds = time.monotonic() - begun
    print(f"{done} runs, {steps} steps in {seconds:.1f} s; the last one's digest: {outcome.digest if done else ''}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
