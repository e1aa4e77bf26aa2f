"""train, eval, predict and tune with a tiny network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from click.testing import CliRunner

from dvis_d2.cli import main
from dvis_d2.cli.networks import program_arguments, summarize
from dvis_d2.config import packaged
from dvis_d2.engine import Trainer
from dvis_d2.tuning import search

ROOT = Path(__file__).parents[2]


def dvis(*args, cwd):
    """The output of the program, started anywhere, without any GPU."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dvis_d2", *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_from_training_to_pictures(tiny_args, tiny_coco, tmp_path):
    out = tmp_path / "out"
    # options may follow the pairs, and the config is found by its name
    args = ["--config-file", "configs/shapes/Base-shapes.yaml", *tiny_args[2:]]
    output = dvis("train", *args, "OUTPUT_DIR", out, "--sheet-images", 3, cwd=tmp_path)
    results = json.loads((out / "results.json").read_text())
    assert {"AP", "AP50"} <= set(results["segm"])
    sheet = cv2.imread(str(out / "sheet.png"))
    assert sheet.shape[1] > 2 * sheet.shape[0]  # two rows of two panels
    lines = output.strip().splitlines()
    assert lines[-1].startswith(f"{tiny_coco[0]}: segm AP ")
    # what is trained on what, where it goes, progress, the best; all else stands in the log, without colors
    assert len(lines) < 15 and "Warning" not in output and "\x1b" not in output
    assert any(line.startswith("4/4 iterations  100 %") for line in lines) and "Best validation: AP" in output
    log = (out / "log.txt").read_text()
    assert "COMMON_STRIDE" in log and "LabelMapHead" in log and "\x1b" not in log
    assert {"model_best.pth", "metrics.csv"} <= {path.name for path in out.iterdir()}
    assert output.strip().endswith(f"; pictures: {out}/sheet.png")

    weights = ["MODEL.WEIGHTS", out / "model_final.pth"]
    config = (out / "config.yaml").read_bytes()
    output = dvis("eval", "--model", out, cwd=tmp_path)  # a training's folder knows its validation data
    assert "copypaste: AP,AP50" in output and "Task: segm" in output and "custom_val" not in output
    assert (out / "config.yaml").read_bytes() == config  # of the training

    # the saved config alone is enough to draw: it names the classes
    opts = [*weights, "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD", "-1.0"]
    images = [tiny_coco[1] / "[01].png", tiny_coco[1] / "5.png"]
    config = ["--config-file", out / "config.yaml", "--confidence-threshold", 0.0]
    save = ["--save", "panel", "--save", "labels"]
    output = dvis("predict", *images, "-o", tmp_path / "found", *save, *config, *opts, cwd=tmp_path)
    assert "objects in 3 images" in output
    assert sorted(p.name for p in (tmp_path / "found/labels").iterdir()) == ["0.tif", "1.tif", "5.tif"]
    picture = cv2.imread(str(tmp_path / "found/panel/0.png"))
    assert picture.shape[1] > 3.5 * picture.shape[0]  # image, label map, proposals, result


def test_arguments_are_those_of_train_net():
    args = program_arguments(config_file="a.yaml", opts=["SEED", "1"], num_gpus=2, train_json=None)
    assert (args.config_file, args.opts, args.num_gpus, args.train_json) == ("a.yaml", ["SEED", "1"], 2, None)
    assert not args.resume and not args.eval_only and args.num_machines == 1


def test_the_last_line_has_the_first_two_metrics_of_the_masks():
    segm = {"AP": 80.52, "AP50": 95.0, "AP75": 90.0}
    assert summarize({"bbox": {"AP": 1.0}, "segm": segm}) == "segm AP 80.5, AP50 95.0"
    assert summarize({"ap_r": {"AP50": 40.0}}) == "ap_r AP50 40.0"


@pytest.fixture
def tune(tiny_cfg, tmp_path, monkeypatch):
    """Arguments of `dvis tune` for an untrained network, with two values of one key to choose from."""
    monkeypatch.setattr(search, "GRID", {"MODEL.DVIS_ROI_HEADS.ALPHA": (0.5, 1.0)})
    weights = tmp_path / "weights" / "model.pth"
    weights.parent.mkdir()
    torch.save({"model": Trainer.build_model(tiny_cfg).state_dict()}, weights)
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg.dump())
    return ["tune", "--config-file", str(config), "MODEL.WEIGHTS", str(weights)]


def test_tune_writes_the_thresholds_beside_the_weights(tune, tmp_path, capsys):
    main(tune, standalone_mode=False)
    path = tmp_path / "weights" / "thresholds.yaml"
    output = capsys.readouterr().out
    assert f"{path} written" in output and "3 images held out" in output
    # an untrained network gains nothing
    assert yaml.safe_load(path.read_text()) == {} and path.read_text().startswith("# Nothing on the grid is better")


def test_tune_names_weights_that_are_not_there(tune):
    result = CliRunner().invoke(main, [*tune[:-1], "nowhere.pth"])
    assert result.exit_code == 2 and "nowhere.pth" in result.stderr


def test_tuning_does_not_write_beside_packaged_models(tiny_coco):
    before = sorted(packaged("models").iterdir())
    content = json.loads(tiny_coco[0].read_text())
    kinds = ("disc", "square", "triangle", "ring", "star")
    content["categories"] = [{"id": k, "name": name} for k, name in enumerate(kinds, content["categories"][0]["id"])]
    tiny_coco[0].write_text(json.dumps(content))
    data = ["--val-json", str(tiny_coco[0]), "--val-images", str(tiny_coco[1])]
    result = CliRunner().invoke(main, ["tune", "--model", "shapes", *data])
    assert result.exit_code == 2 and "would count for all packaged models" in result.stderr
    assert sorted(packaged("models").iterdir()) == before
