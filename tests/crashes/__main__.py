"""Processes killed with SIGKILL at any moment: ``python -m tests.crashes --kills 500 --seed 1``.

They write, sync, make snapshots, begin with one, open new files, migrate, copy, compact, carry out client resets,
salvage and log users in; some are killed again while they recover. After each kill every database has to be sound, what
was committed has to be there, transaction by transaction, and all devices have to come to the same. With ``--faults
500`` calls of the system fail instead, as on a disk that is full or broken; with ``--full 500`` all is on a small disk
that is full; with ``--damages 500`` files are damaged that nobody has open, before somebody looks or any of this runs
into them. Ends with 1 and what went wrong otherwise, and leaves the files where they are. The moments come from the
seed; what a process had done by then is up to the machine.
"""

import argparse
import functools
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crashes.checking import Trial
from tests.crashes.failing import Failing, Filling, with_faults, with_small_disk
from tests.crashes.killing import Killing
from tests.crashes.processes import Failure
from tests.crashes.spoiling import Spoiling


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--kills", type=int, help="how many kills at least")
    what.add_argument("--faults", type=int, help="how many failing calls at least")
    what.add_argument("--full", type=int, help="how many full disks at least")
    what.add_argument("--damages", type=int, help="how many damages of files at least")
    parser.add_argument("--seed", type=int, default=0, help="another number draws other moments")
    parser.add_argument("--encrypted", action="store_true", help="damage encrypted files")
    arguments = parser.parse_args()
    if arguments.faults is not None:
        with_faults()
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="crashes-")) if arguments.full is None else with_small_disk()
    trial = trial_of(arguments, folder)
    try:
        trial.run(arguments.kills or arguments.faults or arguments.full or arguments.damages)
    except Failure as failure:
        print(f"{failure}\nseed {arguments.seed}; the files are in {trial.world}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)  # a disk is gone with its process
    report(trial, time.monotonic() - begun)
    return 0


def trial_of(arguments: argparse.Namespace, folder: Path) -> Trial:
    log = functools.partial(print, flush=True)
    if arguments.kills is not None:
        return Killing(folder, arguments.seed, log)
    if arguments.faults is not None:
        return Failing(folder, arguments.seed, log)
    if arguments.full is not None:
        return Filling(folder, arguments.seed, log)
    return Spoiling(folder, arguments.seed, log, encrypted=arguments.encrypted)


def report(trial: Trial, seconds: float) -> None:
    for name, count in sorted(trial.strikes.items()):
        print(f"{count:>6} × {name.replace('_', ' ')}")
    for line in trial.remarks():
        print(line)
    print(f"{trial.strikes.total()} in {seconds:.0f} s: all is well")


if __name__ == "__main__":
    sys.exit(main())
