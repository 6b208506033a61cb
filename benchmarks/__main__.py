"""Runs the benchmarks and prints ratios: ``python -m benchmarks``.

Subject and baseline take turns, so that a machine that slows down slows both; the ratio is of the medians.
"""

import argparse
import json
import platform
import sqlite3
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="how often each side is measured; the median counts")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the rows, for a quick look")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks.json"), help="where the numbers go")
    arguments = parser.parse_args()
    print(f"{'case':<42}{'localstore':>12}{'baseline':>12}{'ratio':>8}   baseline is")
    results = []
    for case in CASES:
        if arguments.only in case.name:
            results.append(measure(case, rows=max(1, int(case.rows * arguments.scale)), runs=arguments.runs))
            print(line(results[-1]), flush=True)
    machine = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "machine": platform.machine()}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps({"on": machine, "results": results}, indent=2) + "\n", encoding="utf-8")
    print(f"written to {arguments.json}")


def measure(case: Case, *, rows: int, runs: int) -> dict[str, Any]:
    """Medians of both sides, each on fresh files every time."""
    seconds: dict[str, list[float]] = {"subject": [], "baseline": []}
    for _ in range(runs):
        seconds["baseline"].append(once(case.baseline, rows))
        seconds["subject"].append(once(case.subject, rows))
    subject, baseline = statistics.median(seconds["subject"]), statistics.median(seconds["baseline"])
    return {
        "name": f"{rows:,} {case.name}",
        "baseline_name": case.baseline_name,
        "rows": rows,
        "seconds": seconds,
        "subject_median": subject,
        "baseline_median": baseline,
        "ratio": subject / baseline,
    }


def once(side: Callable[[Path, int], float], rows: int) -> float:
    """Run one side in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="localstore-benchmark-") as directory:
        return side(Path(directory), rows)


def line(result: dict[str, Any]) -> str:
    """A result as a line of the table."""
    subject, baseline = result["subject_median"] * 1000, result["baseline_median"] * 1000
    return f"{result['name']:<42}{subject:>9.0f} ms{baseline:>9.0f} ms{result['ratio']:>8.2f}   {result['baseline_name']}"


if __name__ == "__main__":
    main()
