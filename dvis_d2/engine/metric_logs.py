"""A training's figures, beside Detectron2's metrics.json and TensorBoard: CSV, Weights & Biases, MLflow."""

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage

Log = Callable[[Mapping[str, float], int], Any]


class ScalarWriter(EventWriter):
    """Gives every new scalar, smoothed as Detectron2's writers do, to ``log({name: value}, iteration)``."""

    def __init__(self, log: Log):
        self.log, self.last = log, -1

    def write(self) -> None:
        new: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(20).items():
            if iteration > self.last:
                new[iteration][name] = value
        for iteration in sorted(new):
            self.log(new[iteration], iteration)
        self.last = max(new, default=self.last)


class CSVLog:
    """A file with a row an iteration that was logged and a column a scalar that was there at the first. Of an earlier
    part of the training it keeps the rows before the iteration at which this one starts."""

    def __init__(self, path: str, start_iter: Callable[[], int]):
        self.path, self.start_iter = path, start_iter
        self.columns: list[str] = []

    def __call__(self, values: Mapping[str, float], iteration: int) -> None:
        rows: list[dict] = [{"iteration": iteration, **values}] if values.keys() & set(self.columns) else []
        mode = "a" if self.columns else "w"
        if not self.columns:
            rows = [*self._kept_rows(), {"iteration": iteration, **values}]
            names = {"validation/AP", *get_event_storage().latest()}.union(*rows[:1])
            self.columns = ["iteration", *sorted(names - {"iteration"})]
        with open(self.path, mode, newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self.columns, restval="", extrasaction="ignore")
            if mode == "w":
                table.writeheader()
            table.writerows(rows)

    def _kept_rows(self) -> list[dict]:
        if not self.start_iter() or not os.path.isfile(self.path):
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if int(row["iteration"] or 0) < self.start_iter()]


def service_logs(config: Mapping) -> list[Log]:
    """Weights & Biases where ``WANDB_PROJECT``, MLflow where ``MLFLOW_TRACKING_URI`` is in the environment."""
    logs: list[Log] = []
    if os.environ.get("WANDB_PROJECT"):
        import wandb

        run = wandb.init(config=dict(config))
        logs.append(lambda values, iteration: run.log(dict(values), step=iteration))
    if os.environ.get("MLFLOW_TRACKING_URI"):
        import mlflow

        mlflow.start_run()
        logs.append(lambda values, iteration: mlflow.log_metrics(dict(values), step=iteration))
    return logs
