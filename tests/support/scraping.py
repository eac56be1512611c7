"""Reading the metrics as Prometheus does."""

import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

#: A series as Prometheus writes it (labels sorted) -> its value.
Figures = dict[str, float]


def parsed(text: str) -> Figures:
    """Every sample of an exposition; the label of the target that has no name of its own is left out."""
    figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            shown = sorted(sample.labels.items() - {("target", "default")})
            labels = ",".join(f'{name}="{value}"' for name, value in shown)
            figures[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return figures


def scrape(port: int) -> Figures:
    """What a metrics endpoint of this machine shows now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def read(path: Path) -> Figures:
    """What a node exporter would read in a file."""
    return parsed(path.read_text())


def changed(figures: Figures, before: Figures | None = None) -> Figures:
    """What has changed since `before`, or since the start: counters by how much, gauges to what.

    Without buckets, sums of seconds and the interval.
    """
    before = before or dict.fromkeys(figures, 0.0)
    return {
        series: value if series.startswith(_GAUGES) else value - before[series]
        for series, value in figures.items()
        if value != before[series] and not series.startswith(_TIMES) and "_bucket{" not in series
    }


_GAUGES = "cleanup_last_sweep_"
_TIMES = (
    "cleanup_sweep_duration_seconds_sum",
    "cleanup_last_success_timestamp_seconds",
    "cleanup_interval_seconds",
)
