import csv
import sys
from types import SimpleNamespace

from detectron2.utils.events import EventStorage

from dvis_d2.engine.metric_logs import CSVLog, ScalarWriter, service_logs


def write(writer, start, steps, period=2):
    with EventStorage(start) as storage:
        for iteration in range(start, steps):
            storage.iter = iteration
            storage.put_scalar("loss", iteration / 10, smoothing_hint=False)
            if iteration % 4 == 3:
                storage.put_scalar("validation/AP", 10.0 * iteration, smoothing_hint=False)
            if (iteration + 1) % period == 0:
                writer.write()
        storage.iter = steps
        storage.put_scalar("segm/AP", 1.0, smoothing_hint=False)
        writer.write()


def rows(path):
    with open(path, newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def test_csv_has_a_row_an_iteration_that_was_logged(tmp_path):
    path = tmp_path / "metrics.csv"
    write(ScalarWriter(CSVLog(str(path), lambda: 0)), 0, 6)
    assert path.read_text().startswith("iteration,loss,validation/AP")
    assert rows(path) == [("1", "0.1", ""), ("3", "0.3", "30.0"), ("5", "0.5", "")]


def test_a_resumed_training_goes_on_where_it_starts_and_a_new_one_anew(tmp_path):
    path = tmp_path / "metrics.csv"
    write(ScalarWriter(CSVLog(str(path), lambda: 0)), 0, 6)
    write(ScalarWriter(CSVLog(str(path), lambda: 4)), 4, 8)
    assert [row[0] for row in rows(path)] == ["1", "3", "5", "7"] and rows(path)[-1] == ("7", "0.7", "70.0")
    write(ScalarWriter(CSVLog(str(path), lambda: 0)), 0, 2)
    assert [row[0] for row in rows(path)] == ["1"]


def test_services_get_every_scalar_once_where_the_environment_names_them(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert service_logs({}) == []
    logged = {"wandb": [], "mlflow": []}
    run = SimpleNamespace(log=lambda values, step: logged["wandb"].append((step, values)))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda config: run))
    mlflow = SimpleNamespace(
        start_run=lambda: None, log_metrics=lambda values, step: logged["mlflow"].append((step, values))
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setenv("WANDB_PROJECT", "nuclei")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///x")
    for log in service_logs({"SEED": 1}):
        write(ScalarWriter(log), 0, 4)
    assert logged["wandb"] == [(1, {"loss": 0.1}), (3, {"loss": 0.3, "validation/AP": 30.0}), (4, {"segm/AP": 1.0})]
    assert logged["mlflow"] == logged["wandb"]
