"""Merging, tried by chance for as long as somebody likes: ``python -m tests.merging --examples 50000 --seed 1``.

Ends with 1 and the smallest history that was found when devices show something else than the oracle. ``--planted`` does the
same with copies of the library that have a mistake each, all of which must be found.
"""

import argparse
import sys
import time
import traceback
from collections import Counter

from tests.merging.machine import tally
from tests.merging.planted import check_planted
from tests.merging.running import SHARES, run

BATCH = 1000  # examples that Hypothesis makes in one go; what it remembers of them grows with their number


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.merging", description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000, help="how many histories")
    parser.add_argument("--seed", type=int, default=0, help="another number makes other histories")
    parser.add_argument(
        "--as-found", action="store_true", help="show a failing history as it was found, without making it smaller"
    )
    parser.add_argument("--planted", action="store_true", help="look for planted mistakes instead, in so many histories each")
    arguments = parser.parse_args()
    if arguments.planted:
        return check_planted(arguments.examples, arguments.seed)
    return search(arguments.examples, arguments.seed, shrink=not arguments.as_found)


def search(examples: int, seed: int, *, shrink: bool) -> int:
    """Run histories until one fails."""
    counted: Counter[str] = Counter()
    begun, failed = time.process_time(), False
    while counted["examples"] < examples and not failed:
        try:
            run(min(BATCH, examples - counted["examples"]), seed, shrink=shrink)
        except Exception:  # noqa: BLE001  whatever it is, it is what was looked for
            failed = True
            traceback.print_exc()
        counted += tally
        seed += 1
        print(f"{counted['examples']} examples in {time.process_time() - begun:.0f} s of CPU time", flush=True)
    for name, count in counted.most_common():
        print(f"{count:>10}  {count / counted['examples']:>6.1%}  {name}")
    print("failed: see above" if failed else "all devices showed what the oracle says")
    rare = [name for name, share in SHARES.items() if examples >= BATCH and counted[name] < share * counted["examples"]]
    if rare:
        print(f"but they prove too little, as this happened too rarely: {', '.join(rare)}")
    return int(failed or bool(rare))


if __name__ == "__main__":
    sys.exit(main())
