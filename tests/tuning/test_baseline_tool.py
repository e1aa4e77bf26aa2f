"""tools/evaluate_baseline.py: thresholds never see the images they are reported on, and the baseline sees no label."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from dvis_d2.engine import Trainer
from dvis_d2.tuning import StoredPredictions, current_thresholds
from dvis_d2.tuning.predictions import ALPHA

TOOL = Path(__file__).parents[2] / "tools" / "evaluate_baseline.py"


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("evaluate_baseline", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "GRID", {ALPHA: (0.5, 1.0)})
    return module


@pytest.fixture
def run(tool, tiny_cfg, tmp_path, monkeypatch, capsys):
    """The program on an untrained model, with stand-in detections; its JSON."""
    weights, config = tmp_path / "model.pth", tmp_path / "config.yaml"
    torch.save({"model": Trainer.build_model(tiny_cfg).state_dict()}, weights)
    config.write_text(tiny_cfg.dump())

    def run(detections):
        monkeypatch.setattr(StoredPredictions, "detections", detections)
        argv = ["evaluate_baseline.py", "--config-file", str(config), "MODEL.WEIGHTS", str(weights)]
        monkeypatch.setattr(sys, "argv", argv)
        tool.main()
        return json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    return run


def test_each_half_is_detected_in_with_what_was_tuned_on_the_other(run, perfect):
    """Only alpha 1 is right on the even images, only 1/2 on the odd ones: tuned on the other half, all goes wrong."""
    ids = sorted(perfect)
    first = set(ids[::2])

    def detections(self, thresholds):
        right = [(image.image_id in first) == (thresholds[ALPHA] == 1.0) for image in self.images]
        return [perfect[image.image_id] if r else [] for image, r in zip(self.images, right, strict=True)]

    result = run(detections)
    assert result["network"]["AP"] == 0
    assert result["network"]["tuned"] == [{}, {ALPHA: 1.0}]
    assert result["images"] == len(ids)


def test_the_baseline_links_every_neighbour_and_is_reported_beside_the_network(run, perfect, tool):
    def detections(self, thresholds):
        labels_used = thresholds[tool.READINGS] != ["linked"]
        assert labels_used or thresholds[tool.LINK_THRESHOLDS] == [1e9]
        return [perfect[image.image_id] if labels_used else [] for image in self.images]

    result = run(detections)
    assert [round(result["network"][k]) for k in ("AP", "AP50", "AP75")] == [100, 100, 100]
    assert result["foreground components"]["AP"] == 0


def test_the_baseline_does_not_depend_on_the_labels(tool, tiny_cfg):
    """Two touching objects with labels far apart are one component."""
    from dvis_d2.modeling.grouping import group_label_map

    start = current_thresholds(tiny_cfg) | tool.COMPONENTS
    label_map = torch.zeros(1, 8, 8)
    label_map[:, 2:6, 1:4], label_map[:, 2:6, 4:7] = 2.0, 40.0
    (grouping,) = group_label_map(
        label_map, readings=start[tool.READINGS], link_thresholds=start[tool.LINK_THRESHOLDS], foreground_threshold=1.0
    )
    assert len(grouping) == 1 and grouping.masks[0].sum() == 24
