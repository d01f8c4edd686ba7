"""Read the logs that Keras reports in a `fit`: for triggers, for the history, for warnings.

Most batches end without a look at their logs: these are not read at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from keras_savekit.base.logs import Logs, Validation, why_absent
from keras_savekit.fit.reporting import Reporter
from keras_savekit.formats.log_values import encode_logs, readable_logs

Epoch = tuple[int, dict[str, Any]]


class LogReader:
    """The logs of one session.

    metrics: the names that the policy looks at.

    history: each epoch of the training with its logs, as `log_values.encode_logs` makes them.
    """

    def __init__(self, metrics: Collection[str], report: Reporter) -> None:
        self._metrics = sorted(metrics)
        self._report = report
        self._unread: Mapping[str, Any] | None = None
        self._reported: set[str] = set()  # the names that ended epochs reported
        self.history: list[Epoch] = []

    def resume(self, history: Iterable[tuple[int, dict[str, Any]]]) -> None:
        """Continue after these epochs."""
        self.history = [(epoch, logs) for epoch, logs in history]
        self._reported = {name for _, logs in self.history for name in logs}

    def receive(self, logs: Mapping[str, Any]) -> None:
        """Keep the newest logs until someone reads them."""
        self._unread = logs

    def read(self) -> Logs | None:
        """Return the newest logs as values of our own; None if they were read before."""
        if self._unread is None:
            return None
        found = readable_logs(self._unread)
        self._unread = None
        for name, note in found.notes.items():
            self._report.warn_once(f"value {name}", note)
        return found.logs

    def end_epoch(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Add an epoch to the history."""
        self.history.append((epoch, encode_logs(logs)))

    def check_metrics(self, logs: Logs, validation: Validation) -> None:
        """Warn once about each metric of the policy that an ended epoch did not report."""
        self._reported.update(logs)
        for name in self._metrics:
            absent = why_absent(logs, name, came=self._reported, validation=validation)
            self._report.warn_once(f"metric {name}", absent)
