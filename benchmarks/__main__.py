"""Runs the benchmarks and prints ratios: ``python -m benchmarks``.

Subject and baseline take turns, so that a machine that slows down slows both; the ratio is the median of the ratios of
those that ran one after the other, and the range beside it that of the middle half of them.
"""

import argparse
import json
import math
import platform
import sqlite3
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.kit import Case

_SHOWN = {"ms": (1000, 0), "MB": (1e-6, 1), "kB": (1e-3, 1), "%": (100, 3)}
"""What values are multiplied with to be shown, and how many of their digits are."""
_MEASURED = {"ms": "seconds", "MB": "bytes", "kB": "bytes", "%": "share"}


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="how often each side is measured; the median counts")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the rows, for a quick look")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks.json"), help="where the numbers go")
    arguments = parser.parse_args()
    print(f"{'case':<42}{'localstore':>12}{'baseline':>12}{'ratio':>8}  {'range':<11} baseline is")
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
    """Both sides, each on fresh files every time."""
    found: dict[str, list[float]] = {"subject": [], "baseline": []}
    for _ in range(runs):
        found["baseline"].append(once(case.baseline, rows))
        found["subject"].append(once(case.subject, rows))
    ratios = [_ratio(subject, baseline) for subject, baseline in zip(found["subject"], found["baseline"], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, method="inclusive") if runs > 1 else ratios * 3
    return {
        "name": f"{rows:,} {case.name}",
        "baseline_name": case.baseline_name,
        "rows": rows,
        "unit": case.unit,
        "aim": case.aim,
        _MEASURED[case.unit]: found,
        "subject_median": statistics.median(found["subject"]),
        "baseline_median": statistics.median(found["baseline"]),
        "ratio": ratio,
        "middle_half": [low, high],
    }


def _ratio(subject: float, baseline: float) -> float:
    """A side that takes nothing at all is as good as another that does not either."""
    if baseline:
        return subject / baseline
    return math.inf if subject else 1.0


def once(side: Callable[[Path, int], float], rows: int) -> float:
    """Run one side in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="localstore-benchmark-") as directory:
        return side(Path(directory), rows)


def line(result: dict[str, Any]) -> str:
    """A result as a line of the table."""
    scale, digits = _SHOWN[result["unit"]]
    subject, baseline = result["subject_median"] * scale, result["baseline_median"] * scale
    spread = "{:.2f}-{:.2f}".format(*result["middle_half"])
    unit = result["unit"]
    values = f"{subject:>9.{digits}f} {unit}{baseline:>9.{digits}f} {unit}"
    aim = f"; aim: {result['aim']}" if result["aim"] else ""
    return f"{result['name']:<42}{values}{result['ratio']:>8.2f}  {spread:<11} {result['baseline_name']}{aim}"


if __name__ == "__main__":
    main()
