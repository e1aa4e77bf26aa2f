"""evaluate_baseline: thresholds never see the images they are reported on, and the baseline sees no label."""

import pytest
import torch

from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.tuning import StoredPredictions
from dvis_d2.tuning.predictions import ImageFeatures
from experiments import evaluate_baseline

ALPHA = "MODEL.DVIS_ROI_HEADS.ALPHA"


@pytest.fixture
def run(trained, monkeypatch, last_json):
    """The program on an untrained model, with stand-in detections; its JSON."""
    monkeypatch.setattr(evaluate_baseline, "GRID", {ALPHA: (0.5, 1.0)})

    def run(detections):
        monkeypatch.setattr(StoredPredictions, "detections", detections)
        evaluate_baseline.main(trained)
        return last_json()

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


def test_the_baseline_is_reported_beside_the_network(run, perfect):
    def detections(self, thresholds):
        labels_used = thresholds[evaluate_baseline.CANDIDATES] != ["regions"]
        return [perfect[image.image_id] if labels_used else [] for image in self.images]

    result = run(detections)
    assert [round(result["network"][k]) for k in ("AP", "AP50", "AP75")] == [100, 100, 100]
    assert result["foreground alone"]["AP"] == 0


def test_the_baseline_does_not_depend_on_the_labels():
    """Two touching objects with labels far apart are one region."""
    label_map = torch.zeros(1, 8, 8)
    label_map[:, 2:6, 1:4], label_map[:, 2:6, 4:7] = 2.0, 40.0
    image = ImageFeatures(0, {}, label_map, (8, 8), (8, 8))
    alone = evaluate_baseline.without_labels(image, 1.0).label_map
    (grouping,) = group_label_map(alone, candidates=["regions"], foreground_threshold=1.0)
    assert len(grouping.masks) == 1 and grouping.masks[0].sum() == 24
