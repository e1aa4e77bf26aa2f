"""compare: the table, the plan, and the program as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from dvis_d2.data import write_shapes
from experiments import compare
from experiments.comparison import report

ROOT = Path(__file__).parents[2]
TITLES = compare.TITLES

# --- the table


def result(ap, seconds=600.0, **extra):
    return {
        "iterations": 100,
        "images_seen": 800,
        "train_seconds": seconds,
        "segm": {"AP": ap, "AP50": 80.0, "APs": None},
        "contour": {"F1@1": 50.0},
        "subsets": {"split": {"AP": ap - 10}},
        "subset_sizes": {"split": 7},
    } | extra


@pytest.fixture
def folder(tmp_path):
    plan = {"minutes": 10, "configs": {"dvis": "a.yaml", "mask_rcnn": "b.yaml"}, "max_iter": {}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for name, content in {
        "dvis_seed1": result(60.0),
        "dvis_seed2": result(62.0),
        "mask_rcnn_seed1": result(50.0, seconds=660.0),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(content))
    (tmp_path / "mask_rcnn_seed2").mkdir()  # not finished
    costs = {"parameters": 3_500_000, "multiply_adds": 4e8, "ms_per_image": 30.0, "proposals": 12.5, "images": 50}
    (tmp_path / "costs_dvis.json").write_text(json.dumps(costs))
    return tmp_path


def test_means_and_spreads_over_the_finished_seeds(folder):
    summary = report.summarize(folder)
    dvis, rival = summary["models"]["dvis"], summary["models"]["mask_rcnn"]
    assert (dvis["seeds"], rival["seeds"]) == ([1, 2], [1])
    assert dvis["figures"]["segm/AP"] == pytest.approx({"mean": 61, "spread": 2**0.5})
    assert rival["figures"]["segm/AP"] == {"mean": 50, "spread": None}
    assert dvis["figures"]["split/AP"]["mean"] == 51
    assert dvis["figures"]["proposals"] == {"mean": 12.5, "spread": None}
    assert "segm/APs" not in dvis["figures"] and "proposals" not in rival["figures"]


def test_the_table_shows_differences_and_unequal_times(folder, table_rows):
    table = report.format_table(report.summarize(folder), TITLES)
    rows = table_rows(table)
    assert rows["mask AP"] == ["61.0 ± 1.4", "50.0", "+11.0"]
    assert rows["AP, images with an object cut in parts (7)"] == ["51.0 ± 1.4", "40.0", "+11.0"]
    assert rows["parameters, million"] == ["3.50", "–", ""]
    assert "Mask R-CNN trained for 11.0 minutes, not 10" in table and "DVIS trained for" not in table


@pytest.mark.parametrize("missing", ["plan.json", "mask_rcnn_seed1/result.json"])
def test_nothing_to_report_is_said(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(SystemExit, match="--report|no run of mask_rcnn"):
        report.summarize(folder)


# --- the program


def command(*args):
    return [sys.executable, "-m", "experiments.compare", *map(str, args)]


def run(*args):
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command(*args), cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def test_a_config_without_its_rival_is_named():
    with pytest.raises(SystemExit, match=r"mask_rcnn_dvis_R50\.yaml"):
        compare.main(["--config-file", "configs/dvis_R50.yaml"])


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """Configs for small jobs in place of the worker: what they say is in the results."""
    monkeypatch.setattr(compare, "WORKER", "tests.experiments.small_job")
    paths = {"dvis": tmp_path / "a.json", "mask_rcnn": tmp_path / "b.json"}
    for path in paths.values():
        path.write_text("{}")
    return {model: str(path) for model, path in paths.items()}


def parse(*args):
    return compare.get_parser().parse_args(["--config-file", "a.yaml", *args])


def options_of(result):
    """The 'KEY VALUE' pairs that a small job was given."""
    arguments = json.loads(result.read_text())["arguments"]
    opts = arguments[arguments.index("--opts") + 1 :]
    return dict(zip(opts[::2], opts[1::2], strict=True))


def test_a_stored_plan_of_other_options_is_refused(configs, tmp_path):
    def plan(*args, rate=None):
        return compare.plan_iterations(parse(*args), configs, tmp_path, rate)

    first = plan("--max-iter", "5", "6")
    assert first["max_iter"] == {"dvis": 5, "mask_rcnn": 6}
    assert plan() == first == plan("--seeds", "3", "4")
    for changed, key in ((("--max-iter", "5", "7"), "max_iter"), (("--opts", "SEED", "3"), "opts")):
        with pytest.raises(SystemExit, match=f"other {key}"):
            plan(*changed)
    with pytest.raises(SystemExit, match="learning_rate"):
        plan(rate=0.01)


def test_measured_speed_fills_the_minutes(configs, tmp_path):
    for config_file, seconds in zip(configs.values(), (0.5, 0.75), strict=True):
        Path(config_file).write_text(json.dumps({"seconds_per_iteration": seconds}))
    plan = compare.plan_iterations(parse("--minutes", "2"), configs, tmp_path)
    assert plan["max_iter"] == {"dvis": 240, "mask_rcnn": 160}


@pytest.mark.parametrize("scores, best", [((30.0, 40.0, None), 0.002), ((None, 0.0, 0.0), 0.002), ((5, 4, 3), 0.001)])
@pytest.mark.slow
def test_the_best_learning_rate_is_stored(configs, tmp_path, scores, best):
    rates = ("0.001", "0.002", "0.003")
    by_rate = {rate: {"segm": {"AP": ap}} for rate, ap in zip(rates, scores, strict=True)}
    Path(configs["mask_rcnn"]).write_text(json.dumps({"by": by_rate}))
    path = tmp_path / "learning_rate.json"
    args = parse("--max-iter", "7", "8", "--find-lr", *rates)
    found = compare.find_learning_rate(args, configs, tmp_path / "runs", path)
    assert found == json.loads(path.read_text()) and found["best"] == best and found["iterations"] == 8
    assert found["AP"] == dict(zip(rates, scores, strict=True))


@pytest.mark.slow
def test_the_found_rate_is_mask_rcnns_alone_and_both_train_at_once(configs, tmp_path):
    args = parse("--max-iter", "7", "8", "--seeds", "3", "4", "--opts", "wait", "wait")
    compare.compare(args, configs, tmp_path, 0.005)
    for seed in (3, 4):
        results = [tmp_path / f"{model}_seed{seed}" / "result.json" for model in configs]
        options = [options_of(result) for result in results]
        assert [o.get("SOLVER.BASE_LR") for o in options] == [None, "0.005"]
        assert [o["SOLVER.MAX_ITER"] for o in options] == ["7", "8"]
        assert {o["SEED"] for o in options} == {str(seed)}
        (start, end), (other_start, other_end) = (json.loads(result.read_text())["times"] for result in results)
        assert max(start, other_start) < min(end, other_end)
    others = {path.stem: json.loads(path.read_text())["arguments"][0] for path in tmp_path.glob("[cp]*_*.json")}
    others |= {"pictures": json.loads((tmp_path / "pictures.json").read_text())["arguments"][0]}
    assert others == {"costs_dvis": "costs", "costs_mask_rcnn": "costs", "pictures": "pictures"}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # nine processes start one after another or in pairs
def test_a_stopped_comparison_continues(tmp_path):
    """On drawn shapes of 64 pixels, with a network of a few channels."""
    data = write_shapes(tmp_path / "data", num_images=6, seed=1, height=64, width=64, object_size=(16, 30), copies=1.0)
    options = """
        MODEL.DEVICE cpu MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 8 MODEL.FPN.OUT_CHANNELS 16
        MODEL.LABEL_MAP_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.FC_DIM 16
        MODEL.ROI_MASK_HEAD.CONV_DIM 16 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2
    """.split()
    custom = ["DATASETS.CUSTOM.TRAIN_JSON", data, "DATASETS.CUSTOM.VAL_JSON", data]
    arguments = ["--config-file", "configs/shapes/shapes.yaml", "--output", tmp_path / "out", "--minutes", 1]
    options = ["--opts", *options, *custom]
    folder = tmp_path / "out" / "1min"

    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    first = subprocess.Popen(
        command(*arguments, "--max-iter", 2000, 2000, *options), cwd=ROOT, env=env, stdout=subprocess.DEVNULL
    )
    # written after the checkpoint that it names
    latest = {model: folder / f"{model}_seed1" / "last_checkpoint" for model in TITLES}
    while first.poll() is None and not all(path.exists() and path.read_text() for path in latest.values()):
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 143
    assert not any(str(tmp_path) in path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline"))
    plan = json.loads((folder / "plan.json").read_text())
    steps = {model: int(Path(path.read_text()).stem[-7:]) + 3 for model, path in latest.items()}
    (folder / "plan.json").write_text(json.dumps(plan | {"max_iter": steps}))

    code, output = run(*arguments, *options)
    assert code == 0, output
    for model in TITLES:
        log = (folder / f"{model}_seed1" / "result.log").read_text()
        assert f"Starting training from iteration {steps[model] - 2}" in log
    summary = json.loads(output.splitlines()[-1])
    assert summary["subset_sizes"]["copies"] == 6 and "| mask AP " in (folder / "table.md").read_text()
    assert summary["models"]["dvis"]["figures"]["images_seen"]["mean"] == 2 * steps["dvis"]
    for model in TITLES:
        figures = summary["models"][model]["figures"]
        assert (
            min(figures[name]["mean"] for name in ("parameters", "multiply_adds", "ms_per_image", "train_seconds")) > 0
        )
    sheet = cv2.imread(str(folder / "sheet.png"))
    assert sheet.shape[1] >= 4 * 300

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*_seed1/*")}
    code, again = run(*arguments, *options)  # all is done: nothing is trained
    assert code == 0 and json.loads(again.splitlines()[-1]) == summary
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*_seed1/*")} == before
    code, reported = run(*arguments, "--report")
    assert code == 0 and json.loads(reported.splitlines()[-1]) == summary
