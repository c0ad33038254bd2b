"""MLflow: writes a run of the scenario's experiment, at `MLFLOW_TRACKING_URI` or in `mlflow.db` beside the runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from urllib.parse import quote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from consortia.common.logs import quieter
from consortia.reports.trackers import TrackedRun, Value


def named(name: str) -> str:
    """Return a name that MLflow takes. Another character becomes its bytes in hex behind a colon, which no name has."""
    return quote(name, safe=" /").replace("~", "%7E").replace("%", ":")


class MLflow:
    """See `consortia.reports.trackers.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder.resolve().parent / 'mlflow.db'}"
        with quieter(logging.ERROR, "mlflow", "alembic"):  # for a new database MLflow logs each migration
            self._client = MlflowClient(tracking_uri=store)
            found = self._client.get_experiment_by_name(run.scenario)
            experiment = found.experiment_id if found else self._client.create_experiment(run.scenario)
        self._id = self._client.create_run(experiment, run_name=run.id, tags={"consortia.run": run.id}).info.run_id
        self._client.log_batch(self._id, params=[Param(key, value) for key, value in run.facts.items()])

    def write(self, new: Sequence[Value]) -> None:
        """See `Tracker`."""
        now = int(time.time() * 1000)
        metrics = [Metric(named(each.name), each.value, now, each.round) for each in new]
        for start in range(0, len(metrics), 1000):  # an MLflow store takes at most so many at once
            self._client.log_batch(self._id, metrics=metrics[start : start + 1000])

    def close(self, status: str) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id, {"completed": "FINISHED", "failed": "FAILED"}.get(status, "KILLED"))
