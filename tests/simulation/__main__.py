"""Devices, a remote and all that may go wrong between them, by chance: ``python -m tests.simulation --seed 1 --minutes 5``.

Ends with 1 when something did not hold, and says the seed, the last that happened, and how little of the plan does it. With
``--trace`` it shows everything that happens, which is the same every time. ``--planted`` does the same with copies of the
library that have a mistake each, all of which must be found.
"""

import argparse
import gc
import sys
import time

from tests.simulation.minimising import minimised
from tests.simulation.plan import Plan, plan
from tests.simulation.planted import check_planted
from tests.simulation.world import Outcome, run

_SAY_EVERY = 50  # runs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first run's")
    parser.add_argument("--runs", type=int, help="how many, each with the next seed")
    parser.add_argument("--minutes", type=float, help="go on for so long")
    parser.add_argument("--happenings", type=int, metavar="N", help="only the first N of each run, for many short ones")
    parser.add_argument("--trace", action="store_true", help="show everything that happens")
    parser.add_argument("--as-found", action="store_true", help="do not look for a smaller plan that fails as well")
    parser.add_argument("--go-on", action="store_true", help="go on after a failure, and only name the seeds")
    parser.add_argument(
        "--planted", nargs="?", const="", metavar="NAME", help="look for planted mistakes, those so named, instead"
    )
    arguments = parser.parse_args()
    if arguments.planted is not None:
        return check_planted(arguments.planted, arguments.seed)
    runs = arguments.runs if arguments.runs is not None else (None if arguments.minutes else 1)
    until = None if arguments.minutes is None else time.monotonic() + arguments.minutes * 60
    gc.freeze()  # what was imported need not be looked through before each run
    begun, steps, seed, failed = time.monotonic(), 0, arguments.seed, 0
    while (runs is None or seed < arguments.seed + runs) and (until is None or time.monotonic() < until):
        outcome = run(plan(seed, at_most=arguments.happenings), tell=print if arguments.trace else None)
        steps += outcome.steps
        if outcome.failure is not None:
            failed += 1
            tell(plan(seed, at_most=arguments.happenings), outcome, arguments)
            if not arguments.go_on:
                break
        seed += 1
        if (seed - arguments.seed) % _SAY_EVERY == 0:
            print(f"{seed - arguments.seed} runs, {steps} steps, {failed} failed so far", file=sys.stderr, flush=True)
    seconds = time.monotonic() - begun
    print(f"{seed - arguments.seed} runs, {steps} steps, {failed} failed, in {seconds:.1f} s", file=sys.stderr)
    return int(failed > 0)


def tell(small: Plan, outcome: Outcome, arguments: argparse.Namespace) -> None:
    """Say what went wrong in a run."""
    seed = small.seed
    if arguments.go_on or arguments.trace:
        print(f"seed {seed} failed after {outcome.steps} steps: {outcome.failure}", flush=True)
        return
    if not arguments.as_found:
        print(f"seed {seed} failed: {outcome.failure}\nLooking for less that fails as well ...", flush=True)
        small = minimised(small, lambda plan: run(plan).failure is not None)
        outcome = run(small)
    print("\n".join(outcome.last))
    print(f"\nseed {seed} failed after {outcome.steps} steps: {outcome.failure}\n\n{small.setup}")
    print("\n".join(str(op) for op in small.ops))


if __name__ == "__main__":
    sys.exit(main())
