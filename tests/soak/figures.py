"""What is measured of a process and of files while devices are under churn, and whether it grows.

A figure is flat when what it grew by, after a time to warm up, is less than its allowance. Growth is the Theil-Sen slope (the
median of the slopes between all pairs) through the medians of windows of time, over the time that was measured: neither a peak
nor a sawtooth, such as that of a write-ahead log or of a history that is trimmed, moves it much. Reads ``/proc``, so Linux
alone. Knows nothing of what the processes do.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALLOWANCES", "KIB", "Allowance", "Verdict", "judge", "of_files", "of_process", "of_remote"]

KIB = 1024
MIB = 1024 * KIB
WARM_UP = 0.3
"""The part of a run at its beginning that is left out: buffers and tables fill up, and nothing has been trimmed."""
WINDOWS = 12
LEAST = 3 * WINDOWS  # samples, below which nothing can be said


@dataclass(frozen=True)
class Allowance:
    """What a figure may grow by in a run of any length: so much, or such a part of itself, whichever is more.

    ``most`` is for one that grows up to a point where it begins anew: it may be as large as that, and is not asked for growth.
    """

    amount: float
    part: float
    unit: float = 1
    most: float | None = None

    def of(self, level: float) -> float:
        return max(self.amount, self.part * level)


ALLOWANCES = {
    "memory": Allowance(4 * MIB, 0.04, MIB),
    "threads": Allowance(1.5, 0.0),
    "descriptors": Allowance(3, 0.0),
    "database": Allowance(512 * KIB, 0.1, MIB),
    "wal": Allowance(0, 0.0, MIB, most=18 * MIB),  # a checkpoint comes at 16
    "beside": Allowance(2, 0.0),
    "remote bytes": Allowance(512 * KIB, 0.2, MIB),
    "remote files": Allowance(60, 0.2),
}
"""Of each figure. Memory of a process moves by some megabytes with what its allocator keeps."""


@dataclass(frozen=True)
class Verdict:
    """What became of one figure."""

    level: float
    growth: float
    most: float
    allowance: Allowance

    @property
    def is_flat(self) -> bool:
        if self.allowance.most is not None:
            return self.most <= self.allowance.most
        return self.growth <= self.allowance.of(self.level)

    def __str__(self) -> str:
        unit, allowed = self.allowance.unit, self.allowance.of(self.level)
        if self.allowance.most is not None:
            return f"at most {self.most / unit:.4g} of {self.allowance.most / unit:.4g} allowed"
        grew = f"grew by {self.growth / unit:+.3g} of {allowed / unit:.3g} allowed"
        return f"{self.level / unit:.4g}, {grew}, at most {self.most / unit:.4g}"


def judge(samples: Sequence[tuple[float, float]], allowance: Allowance) -> Verdict:
    """Say whether a figure is flat.

    Args:
        samples: moments and values, in order, of a whole run.
        allowance: for the figure.

    Raises:
        ValueError: too few samples.
    """
    begin, end = samples[0][0], samples[-1][0]
    start = begin + WARM_UP * (end - begin)
    warm = [sample for sample in samples if sample[0] >= start]
    if len(warm) < LEAST:
        raise ValueError(f"{len(warm)} samples are too few to say anything; at least {LEAST} are needed.")
    bounds = [len(warm) * number // WINDOWS for number in range(WINDOWS + 1)]
    windows = [warm[first:last] for first, last in itertools.pairwise(bounds)]
    points = [(statistics.median(t for t, _ in window), statistics.median(v for _, v in window)) for window in windows]
    slopes = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in itertools.combinations(points, 2)]
    level = statistics.median(value for _, value in warm)
    growth = statistics.median(slopes) * (end - start)
    return Verdict(level, growth, max(value for _, value in warm), allowance)


def of_process(pid: int) -> dict[str, float]:
    """Memory, threads and open files of a process; nothing when it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return {
            "memory": int(status["VmRSS"].split()[0]) * KIB,
            "threads": int(status["Threads"]),
            "descriptors": sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        }
    return {}


def of_files(database: Path) -> dict[str, float]:
    """Sizes of a device's file and its WAL, and how many files lie beside them."""
    wal = database.with_name(database.name + "-wal")
    return {
        "database": _size(database),
        "wal": _size(wal),
        "beside": sum(1 for path in database.parent.iterdir() if path.name.startswith((database.name, f".{database.name}"))),
    }


def of_remote(folder: Path) -> dict[str, float]:
    """How much lies in a remote's folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {"remote bytes": sum(_size(path) for path in files), "remote files": len(files)}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
