"""The Prometheus metrics of the cleanup.

They belong to one process, see `exporter` for a worker's children. Counters keep pace with the report
while a sweep runs, so what a killed sweep did up to then is counted. A dry run counts as a sweep with
that outcome, and as nothing else.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from cleanup_tasks.reporting.report import REQUESTED
from cleanup_tasks.rules.staleness import EXPLANATIONS

#: How a sweep ended. ``held``: nobody seemed to be alive, so nothing was deleted. ``retried`` and ``refused``
#: are attempts that another attempt follows (the latter by the Python engine); ``lost`` is one whose process
#: was killed.
Outcome = Literal[
    "success", "incomplete", "dry_run", "skipped", "held", "retried", "refused", "failed", "lost"
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
ENGINES = ("lua", "python")

#: Report field -> what its counter is called and counts.
FIGURES = {
    "total_coordinators_checked": ("cleanup_coordinators_checked", "Coordinators with a heartbeat."),
    "stale_coordinators_found": ("cleanup_coordinators_stale", "Coordinators that were found stale."),
    "reaped": ("cleanup_coordinators_reaped", "Stale coordinators whose heartbeat was removed."),
    "revived_coordinators": (
        "cleanup_coordinators_revived",
        "Stale when found, changed before the deletion: kept.",
    ),
    "unreadable_heartbeats": ("cleanup_coordinators_unreadable", "Heartbeats without a readable time: kept."),
    "heartbeats_ahead": (
        "cleanup_coordinators_ahead",
        "Heartbeats 60 s or more ahead of the server's clock: active.",
    ),
    "orphaned_coordinators_reaped": (
        "cleanup_orphans_reaped",
        "Coordinators without a heartbeat whose other keys were removed.",
    ),
    "keys_deleted": ("cleanup_keys_deleted", "Keys that Redis said it deleted."),
    "cleanup_errors": ("cleanup_errors", "Steps of which the end is not known, or that were given up."),
}

#: What is known of the last sweep, and how often there is one -> what its gauge is called and says.
LAST = {
    "success": (
        "cleanup_last_success_timestamp_seconds",
        "When a sweep last succeeded, Unix time; 0: not yet.",
    ),
    "stale": ("cleanup_last_sweep_stale_coordinators", "Stale coordinators that the last sweep found."),
    "orphaned": (
        "cleanup_last_sweep_orphaned_coordinators",
        "Coordinators without a heartbeat that the last sweep found; 0 where it did not look.",
    ),
    "held": (
        "cleanup_last_sweep_held",
        "1: the last sweep deleted nothing, since nobody seemed to be alive; 0: it was not held.",
    ),
    "interval": ("cleanup_interval_seconds", "How often the cleanup is meant to run."),
}

#: What the text of a refusal holds -> the reason that is its label; an open set of texts would be an
#: open set of time series.
REASONS = {
    REQUESTED: "requested",
    "no permissions": "no_permission",
    "unknown command": "unknown_command",
    "script not found": "script_missing",
    "user_script": "script_error",
}
OTHER_REASON = "other"

#: Upper bounds in seconds; 5 is the promise for 10,000 coordinators.
DURATION_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics(Collector):
    """The cleanup's metrics. Each has a label ``target``, whose values are the configured names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Make the metrics and have `registry` show them."""
        self._all = ours = CollectorRegistry()
        self.sweeps = Counter(
            "cleanup_sweeps", "Sweeps by how they ended.", ["target", "outcome", "engine"], registry=ours
        )
        self.figures = {
            field: Counter(name, help_, ["target"], registry=ours) for field, (name, help_) in FIGURES.items()
        }
        self.fallbacks = Counter(
            "cleanup_fallbacks", "Sweeps by the Python engine, and why.", ["target", "reason"], registry=ours
        )
        self.duration = Histogram(
            "cleanup_sweep_duration_seconds",
            "Wall time of sweeps that came to their end.",
            ["target", "engine"],
            buckets=DURATION_BUCKETS_S,
            registry=ours,
        )
        self.last = {
            field: Gauge(name, help_, ["target"], registry=ours) for field, (name, help_) in LAST.items()
        }
        self.last_unreadable = Gauge(
            "cleanup_last_sweep_unreadable_heartbeats",
            "Heartbeats that the last sweep could not read, and why.",
            ["target", "reason"],
            registry=ours,
        )
        #: Gauges that this process has set, by name and target.
        self._set: set[tuple[str, str]] = set()
        registry.register(self)

    def watch(self, intervals: Mapping[str, int]) -> None:
        """Show these targets, all their figures at zero, and how often each is swept, in seconds."""
        for target, interval_s in intervals.items():
            for metric in (*self.figures.values(), *self.last.values()):
                metric.labels(target)
            self._note(self.last["interval"], target, interval_s)
            for unreadable in EXPLANATIONS:
                self.last_unreadable.labels(target, unreadable)
            for engine in ENGINES:
                self.duration.labels(target, engine)
                for outcome in OUTCOMES:
                    self.sweeps.labels(target, outcome, engine)
            for reason in {*REASONS.values(), OTHER_REASON}:
                self.fallbacks.labels(target, reason)

    def grow(self, target: str, **figures: int) -> None:
        """Add to the counters; names are the report's fields, see `FIGURES`."""
        for field, amount in figures.items():
            self.figures[field].labels(target).inc(amount)

    def end(
        self,
        target: str,
        outcome: Outcome,
        engine: str,
        *,
        duration_s: float | None = None,
        last: Mapping[str, float] | None = None,
        unreadable: Mapping[str, int] | None = None,
        fallback_reason: str | None = None,
        interval_s: float | None = None,
    ) -> None:
        """Count a sweep that ended; `last` and `unreadable` are what it found, unless it was a dry run.

        The names in `last` are those of `LAST`. `interval_s` is how often beat asks for the sweep, None where
        somebody else did.
        """
        self.sweeps.labels(target, outcome, engine).inc()
        if duration_s is not None:
            self.duration.labels(target, engine).observe(duration_s)
        found = dict(last or {})
        if interval_s is not None:
            found["interval"] = interval_s
        if outcome == "success":
            found["success"] = time.time()
        for name, value in found.items():
            self._note(self.last[name], target, value)
        if unreadable is not None:
            for reason in EXPLANATIONS:
                self._note(self.last_unreadable, target, unreadable.get(reason, 0), reason)
        if fallback_reason is not None:
            labels = (label for text, label in REASONS.items() if text in fallback_reason)
            self.fallbacks.labels(target, next(labels, OTHER_REASON)).inc()

    def was_set(self, sample: Sample) -> bool:
        """Whether a gauge's value was set by this process, and is not the zero that it begins with."""
        return (sample.name, sample.labels["target"]) in self._set

    def _note(self, gauge: Gauge, target: str, value: float, *more_labels: str) -> None:
        gauge.labels(target, *more_labels).set(value)
        self._set.update((family.name, target) for family in gauge.describe())

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        for family in self._all.collect():
            # When a counter was made is of no use to anybody and would double the series.
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


#: The registry of this process, apart from everybody else's metrics.
REGISTRY = CollectorRegistry()
METRICS = Metrics(REGISTRY)
