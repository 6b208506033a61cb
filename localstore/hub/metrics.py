"""What a hub counts, in the form that Prometheus reads. No name of a user, partition or device is ever in it."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """The counters of one hub in this process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.seconds = Histogram(
            "localstore_hub_request_seconds",
            "How long requests took, by what was asked and the status of the answer.",
            ["call", "status"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.pushed = self._counter("pushed_changesets", "Changesets that were acknowledged.")
        self.pushed_bytes = self._counter("pushed_bytes", "Their bytes.")
        self.pulled = self._counter("pulled_changesets", "Changesets that were given to devices.")
        self.pulled_bytes = self._counter("pulled_bytes", "Their bytes.")
        self.refused = self._counter("refused_changesets", "Changesets that were refused.")
        self.events = self._counter("events", "Hints that were sent to listeners.")
        self.snapshots = self._counter("snapshots", "Snapshots that this process made.")
        self.snapshots_failed = self._counter("snapshots_failed", "Looks at a partition that came to an error.")
        self._snapshot_bytes = self._gauge("snapshot_bytes", "Size of the last snapshot that this process made.")
        self._snapshot_time = self._gauge("snapshot_timestamp_seconds", "When it was made, in Unix seconds.")

    def made_snapshot(self, byte_count: int, now_ms: int) -> None:
        """A snapshot was made just now."""
        self.snapshots.inc()
        self._snapshot_bytes.set(byte_count)
        self._snapshot_time.set(now_ms / 1000)

    def observe(self, name: str, told: str, value: Callable[[], float]) -> None:
        """Show a number that is asked for when somebody reads the metrics."""
        self._gauge(name, told).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, name: str, told: str) -> Counter:
        return Counter(f"localstore_hub_{name}", told, registry=self._registry)

    def _gauge(self, name: str, told: str) -> Gauge:
        return Gauge(f"localstore_hub_{name}", told, registry=self._registry)
