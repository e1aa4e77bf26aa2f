"""ablate: lists, continuing, and the table."""

import json
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from dvis_d2 import add_dvis_config
from experiments import ablate

ROOT = Path(__file__).parents[2]
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
def read(tmp_path):
    """A function: the runs of the list above, with one part of it replaced."""

    def read(old="", new=""):
        path = tmp_path / "list.yaml"
        path.write_text(LIST.replace(old, new) if old else LIST)
        return ablate.read_runs(path, tmp_path / "out")

    return read


@pytest.fixture
def small_jobs(monkeypatch):
    monkeypatch.setattr(ablate, "WORKER", "tests.experiments.small_job")


def test_options_of_the_group_come_before_those_of_the_row(read, tmp_path):
    runs = read()
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
def test_a_wrong_list_is_refused(read, old, new, message):
    with pytest.raises(ValueError, match=message):
        read(old, new)


@pytest.mark.slow
def test_finished_runs_are_measured_again_only_if_asked(read, small_jobs):
    run = read()[2]
    assert ablate.execute([run], at_once=1) == []
    first = json.loads(run.result.read_text())
    assert first["arguments"] == ["--seed", "1", *run.options]
    ablate.execute([run], at_once=1)
    assert json.loads(run.result.read_text()) == first
    ablate.execute([run], at_once=1, evaluate_again=True)
    assert json.loads(run.result.read_text())["times"] > first["times"]


@pytest.mark.slow
def test_a_run_made_with_other_options_is_not_passed_off(read, small_jobs, capsys):
    ablate.execute(read(), at_once=2)
    changed = read("((8,1.0),)", "((6,1.0),)")
    assert ablate.execute(changed, at_once=2) == [changed[2]]
    assert "other options" in capsys.readouterr().err


def test_one_failure_does_not_stop_the_others(read, small_jobs):
    runs = read("seeds: 2", "seeds: 2, options: [fail]")
    assert ablate.execute(runs, at_once=2) == runs[:2]
    assert runs[2].result.exists()


@pytest.mark.slow
def test_the_program_writes_the_table_and_counts_failures(tmp_path, small_jobs, last_json):
    path = tmp_path / "list.yaml"
    path.write_text(LIST.replace("seeds: 2", "options: [fail]"))
    arguments = [str(path), "--output", str(tmp_path / "out"), "--groups", "tiny"]
    assert ablate.main(arguments) == 1
    assert [row["name"] for row in last_json()["tiny"]] == ["Window 8!"]
    assert "| Window 8! |" in (tmp_path / "out" / "table.md").read_text()
    assert ablate.main([*arguments, "--report"]) == 0
    with pytest.raises(SystemExit, match="no group"):
        ablate.main([*arguments, "other"])


def test_the_table_has_mean_and_standard_deviation(read, table_rows):
    runs = read()
    for run, ap in zip(runs[:2], (10.0, 12.0), strict=True):
        run.folder.mkdir(parents=True)
        result = dict.fromkeys(ablate.MEASURES, 0.25) | {"AP": ap, "near": None}
        run.result.write_text(json.dumps(result))
    (row,) = ablate.summarize(runs)["tiny"]  # the row without a finished run is left out
    assert (row["name"], row["seeds"]) == ("all pairs", 2)
    assert row["AP"] == (11.0, pytest.approx(2**0.5))
    cells = table_rows(ablate.format_tables({"tiny": [row]}))["all pairs"]
    assert cells[:3] == ["2", "11.0 ± 1.4", "0.2 ± 0.0"] and "nan" in cells[6]


@pytest.mark.parametrize("name", ["loss", "crowd"])
def test_the_lists_name_configs_and_keys_that_exist(name, tmp_path):
    runs = ablate.read_runs(ROOT / f"experiments/ablations/{name}.yaml", tmp_path)
    assert all((ROOT / run.config_file).exists() for run in runs) and len(runs) > 10
    for options in {run.options for run in runs}:
        cfg = get_cfg()
        add_dvis_config(cfg)
        cfg.merge_from_list(list(options))


@pytest.mark.slow
def test_a_real_run(tmp_path, tiny_args):
    _, config_file, *rest = tiny_args
    names = {"--train-json": "TRAIN_JSON", "--train-images": "TRAIN_IMAGES", "--val-json": "VAL_JSON"}
    names |= {"--val-images": "VAL_IMAGES"}
    options = [f"DATASETS.CUSTOM.{names[x]}" if x in names else x for x in rest]
    run = ablate.Run("tiny", "row", 1, config_file, tuple(options), tmp_path / "run")
    assert ablate.execute([run], at_once=1) == [], run.job().log.read_text()
    assert set(ablate.MEASURES) <= set(json.loads(run.result.read_text()))
    weights = run.folder / "model_final.pth"
    before = weights.stat().st_mtime_ns
    assert ablate.execute([run], at_once=1, evaluate_again=True) == []
    assert weights.stat().st_mtime_ns == before
