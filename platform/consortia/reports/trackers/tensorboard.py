"""TensorBoard: writes event files into `tensorboard/` of the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from consortia.reports.trackers import TrackedRun, Value


class TensorBoard:
    """See `consortia.reports.trackers.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"))

    def write(self, new: Sequence[Value]) -> None:
        """See `Tracker`."""
        for each in new:
            self._writer.add_scalar(each.name, each.value, each.round)
        self._writer.flush()

    def close(self, status: str) -> None:
        """See `Tracker`."""
        self._writer.add_text("status", status)
        self._writer.close()
