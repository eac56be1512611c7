"""The file that a node exporter reads. Each run of the command adds to it; several may do so at once."""

import contextlib
import fcntl
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import write_to_textfile
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from cleanup_tasks.reporting.log import logger
from cleanup_tasks.reporting.metrics import Metrics

#: Seconds that a run waits for others that write; each takes milliseconds.
LOCK_TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.05
#: How the lines begin that we write.
_OURS = "cleanup_"


class MetricsFile:
    """The file; nothing is read or written before `check`."""

    def __init__(self, path: Path) -> None:
        """A file that is there, or is to be made."""
        self._path = path.resolve()  # the file that a link leads to, for it is replaced

    def check(self) -> None:
        """Find out whether it can be written, before anything is done that it would have to tell.

        Raises:
            ValueError: it holds something else, or can't be made in its folder.
            OSError: it can't be read.
        """
        self._text()
        try:
            with tempfile.TemporaryFile(dir=self._path.parent):
                pass
        except OSError as error:  # which names the temporary file
            raise ValueError(f"folder {self._path.parent}: {error.strerror}") from None

    def add(self, metrics: Metrics) -> None:
        """Add the figures of this process to those in the file, a reader finds the old ones or the new ones.

        Raises:
            ValueError, OSError: see `check`; the figures are lost.
        """
        with self._locked():
            write_to_textfile(str(self._path), _Sum(metrics, self._read()))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder's lock, for the file itself is replaced."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            end = time.monotonic() + LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise TimeoutError(f"{self._path.parent} is locked by another process") from None
                    time.sleep(_LOOK_AGAIN_S)
            yield
        finally:
            os.close(folder)

    def _text(self) -> str:
        if not self._path.exists():
            return ""
        if not self._path.is_file():
            raise ValueError(f"{self._path} is no regular file")
        try:
            text = self._path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            text = "binary"
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        if text and not (lines and all(line.startswith(_OURS) for line in lines)):
            raise ValueError(f"{self._path} holds something else than these metrics; name another file")
        return text

    def _read(self) -> list[Metric]:
        """What earlier runs left; a damaged file is no failure, the sweep is worth more than its history."""
        text = self._text()
        try:
            return list(text_string_to_metric_families(text))
        except Exception as error:  # the parser raises whatever it stumbles over
            logger.warning("Metrics file can't be read, counting from zero: %s: %s", self._path, error)
            return []


class _Sum(Collector):
    """The figures of a process on top of earlier ones, and the earlier ones of other targets."""

    def __init__(self, metrics: Metrics, earlier: list[Metric]) -> None:
        self._metrics = metrics
        self._earlier = {family.name: family.samples for family in earlier}

    def collect(self) -> Iterator[Metric]:
        for family in self._metrics.collect():
            forms = {(sample.name, *sorted(sample.labels)) for sample in family.samples}
            earlier = {
                _series(sample): sample
                for sample in self._earlier.get(family.name, [])
                # what an earlier version wrote otherwise is nobody's any more
                if math.isfinite(sample.value) and (sample.name, *sorted(sample.labels)) in forms
            }
            family.samples = [
                self._sum(family, sample, earlier.pop(_series(sample), None)) for sample in family.samples
            ]
            family.samples += earlier.values()
            yield family

    def _sum(self, family: Metric, sample: Sample, earlier: Sample | None) -> Sample:
        if earlier is None:
            return sample
        if family.type != "gauge":
            return sample._replace(value=sample.value + earlier.value)
        return sample if self._metrics.was_set(sample) else earlier


def _series(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    return sample.name, frozenset(sample.labels.items())
