"""tools/tune.py in this process, on an untrained model."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dvis_d2.engine import Trainer
from dvis_d2.tuning import StoredPredictions, search
from dvis_d2.tuning.predictions import ALPHA, CLASS_AGNOSTIC_NMS, NMS

TOOL = Path(__file__).parents[2] / "tools" / "tune.py"


@pytest.fixture
def tune(tiny_cfg, tmp_path, monkeypatch, perfect):
    """Runs the program on an untrained model whose detections are perfect for alpha > 1/2 and absent otherwise."""

    def detections(self, thresholds):
        return [perfect[image.image_id] if thresholds[ALPHA] > 0.5 else [] for image in self.images]

    monkeypatch.setattr(StoredPredictions, "detections", detections)
    model = Trainer.build_model(tiny_cfg)
    weights = tmp_path / "weights" / "model.pth"
    weights.parent.mkdir()
    torch.save({"model": model.state_dict()}, weights)
    config = tmp_path / "config.yaml"
    config.write_text(tiny_cfg.dump())
    spec = importlib.util.spec_from_file_location("tune_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(search, "GRID", {ALPHA: (0.5, 1.0)})

    def run(*args, weights=weights, opts=()):
        argv = ["tune.py", *args, "--config-file", str(config), "MODEL.WEIGHTS", str(weights), *opts]
        monkeypatch.setattr(sys, "argv", argv)
        module.main()

    run.weights = weights
    return run


def test_writes_the_thresholds_beside_the_weights(tune, capsys):
    tune()
    path = tune.weights.parent / "thresholds.yaml"
    out = capsys.readouterr().out
    assert yaml.safe_load(path.read_text()) == {"MODEL": {"DVIS_ROI_HEADS": {"ALPHA": 1.0}}}
    assert str(path) in out and "3 images held out" in out


def test_alpha_sweep_scores_every_alpha_of_both_fusions_and_draws_but_stores_nothing(tune, capsys, tmp_path):
    picture = tmp_path / "alpha.png"
    tune("--sweep-alpha", "--plot", str(picture))
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["alpha"]
    assert [row["score_fusion"] for row in rows] == ["sum"] * 11 + ["product"] * 11
    assert [row["alpha"] for row in rows] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1] * 2
    assert [round(row["AP90"]) for row in rows] == ([0] * 6 + [100] * 5) * 2
    assert [row["detections"] for row in rows] == ([0] * 6 + [2] * 5) * 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not (tune.weights.parent / "thresholds.yaml").exists()


def test_alpha_sweep_of_class_agnostic_heads_is_refused(tune):
    with pytest.raises(SystemExit, match="class-agnostic"):
        tune("--sweep-alpha", opts=("MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC", "True"))


def test_nms_sweep_scores_every_kind(tune, capsys, monkeypatch, perfect):
    def detections(self, thresholds):
        good = thresholds[NMS] == "matrix" and thresholds[CLASS_AGNOSTIC_NMS]
        return [perfect[image.image_id] if good else [] for image in self.images]

    monkeypatch.setattr(StoredPredictions, "detections", detections)
    tune("--sweep-nms")
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["nms"]
    found = [(row["nms"], row["class_agnostic_nms"], round(row["AP"])) for row in rows]
    assert found == [("hard", False, 0), ("hard", True, 0), ("matrix", False, 0), ("matrix", True, 100)]


def test_weights_that_are_not_there_are_named(tune, tmp_path):
    with pytest.raises(SystemExit, match="nowhere.pth"):
        tune(weights=tmp_path / "nowhere.pth")
