"""tools/ablate.py: lists, continuing, and the table."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIST = """
groups:
  - name: tiny
    config_file: configs/shapes/shapes_easy.yaml
    options: [SOLVER.MAX_ITER, 2]
    rows:
      - {name: all pairs, seeds: 2}
      - {name: "Window 8!", options: [MODEL.VARIATIONAL_LOSS.PI_WINDOWS, "((8,1.0),)"]}
"""


@pytest.fixture
def ablate():
    spec = importlib.util.spec_from_file_location("ablate", ROOT / "tools" / "ablate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablate"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runs(ablate, tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(LIST)
    return ablate.read_runs(path, tmp_path / "out")


@pytest.fixture
def programs(ablate, monkeypatch):
    """Stand-ins for training and evaluation; the list of what was called."""
    calls = []

    def python(program, *arguments, log):
        calls.append(program)
        if program == "train_net.py":
            folder = Path(arguments[arguments.index("OUTPUT_DIR") + 1])
            (folder / "model_final.pth").touch()
        measures = dict.fromkeys(ablate.MEASURES, float(len(calls)))
        log.write_text("a table\n" + json.dumps({"all": measures | {"near": None}}))

    monkeypatch.setattr(ablate, "_python", python)
    return calls


def test_options_of_the_group_come_before_those_of_the_row(runs, tmp_path):
    folders = [str(run.folder.relative_to(tmp_path / "out")) for run in runs]
    assert folders == ["tiny/all_pairs/seed1", "tiny/all_pairs/seed2", "tiny/window_8/seed1"]
    assert runs[0].options == ("SOLVER.MAX_ITER", "2")
    assert runs[2].options == ("SOLVER.MAX_ITER", "2", "MODEL.VARIATIONAL_LOSS.PI_WINDOWS", "((8,1.0),)")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Window 8!", "All pairs", "share the folder 'all_pairs'"),
        ("seeds: 2", "seed: 2", "'seed': 2"),
        ("    config_file: configs/shapes/shapes_easy.yaml\n", "", "config_file"),
    ],
)
def test_a_wrong_list_is_refused(ablate, tmp_path, old, new, message):
    path = tmp_path / "list.yaml"
    path.write_text(LIST.replace(old, new))
    with pytest.raises(ValueError, match=message):
        ablate.read_runs(path, tmp_path / "out")


def test_finished_runs_are_neither_trained_nor_evaluated_again(ablate, runs, programs):
    ablate.execute(runs[0], evaluate_again=False)
    assert programs == ["train_net.py", "tools/evaluate_proposals.py"]
    ablate.execute(runs[0], evaluate_again=False)
    assert len(programs) == 2
    ablate.execute(runs[0], evaluate_again=True)
    assert programs[2:] == ["tools/evaluate_proposals.py"]


def test_a_run_made_with_other_options_is_not_passed_off(ablate, runs, programs, tmp_path):
    ablate.execute(runs[2], evaluate_again=False)
    path = tmp_path / "list.yaml"
    path.write_text(LIST.replace("((8,1.0),)", "((6,1.0),)"))
    changed = ablate.read_runs(path, tmp_path / "out")[2]
    with pytest.raises(ValueError, match="other options"):
        ablate.execute(changed, evaluate_again=False)


def test_one_failure_does_not_stop_the_others(ablate, runs, programs):
    runs[0].folder.mkdir(parents=True)
    (runs[0].folder / "run.json").write_text("{}")
    assert ablate._execute_all(runs, 1, evaluate_again=False) == [runs[0]]
    assert (runs[1].folder / "result.json").exists() and (runs[2].folder / "result.json").exists()


def test_the_table_has_mean_and_standard_deviation(ablate, runs):
    for run, ap in zip(runs[:2], (10.0, 12.0), strict=True):
        run.folder.mkdir(parents=True)
        result = dict.fromkeys(ablate.MEASURES, 0.25) | {"AP": ap, "near": None}
        (run.folder / "result.json").write_text(json.dumps(result))
    (row,) = ablate.tabulate(runs)["tiny"]  # the row without a finished run is left out
    assert (row["name"], row["seeds"]) == ("all pairs", 2)
    assert row["AP"] == [11.0, pytest.approx(2**0.5)]
    table = ablate.format_tables({"tiny": [row]})
    assert "| all pairs | 2 | 11.0 ± 1.4 | 0.2 ± 0.0 |" in table and "nan" in table


def test_the_list_of_the_loss_is_read(ablate, tmp_path):
    runs = ablate.read_runs(ROOT / "tools" / "ablations" / "loss.yaml", tmp_path)
    assert all((ROOT / run.config_file).exists() for run in runs)
    assert {run.group for run in runs} >= {"nuclei", "shapes", "shapes_easy"}


@pytest.mark.slow
def test_a_real_run(ablate, runs):
    ablate.execute(runs[2], evaluate_again=False)
    result = json.loads((runs[2].folder / "result.json").read_text())
    assert set(ablate.MEASURES) <= set(result)
