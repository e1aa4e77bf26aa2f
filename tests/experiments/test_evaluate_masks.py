"""evaluate_masks on an untrained model."""

import pytest
import torch
from pycocotools import mask as coco_mask

from dvis_d2.engine import Trainer
from dvis_d2.tuning import StoredPredictions
from experiments import evaluate_masks

MASK_SOURCE = "MODEL.DVIS_ROI_HEADS.MASK_SOURCE"
FIGURES = ["AP", "AP50", "AP75", "AP90", "F1@1", "F1@5"]


@pytest.fixture
def run(trained, last_json):
    """Runs the program; its JSON's rows by source."""

    def run(*args, opts=()):
        evaluate_masks.main([*args, *trained, *opts])
        return {row.pop("source"): row for row in last_json()["masks"]}

    return run


@pytest.fixture
def stand_in(perfect, monkeypatch):
    """Masks from the label map are perfect, the head's are a column narrower."""

    def detections(self, thresholds):
        source = thresholds[MASK_SOURCE]
        (image,) = self.images
        found = [dict(d) for d in perfect[image.image_id]]
        if source == "head":
            for d in found:
                mask = coco_mask.decode(d["segmentation"])
                mask[:, mask.any(axis=0).argmax()] = 0
                d["segmentation"] = coco_mask.encode(mask)
        return [found]

    monkeypatch.setattr(StoredPredictions, "detections", detections)


def test_each_source_is_scored_by_its_masks(run, stand_in):
    rows = run()
    assert list(rows) == ["label_map", "head"]
    assert [round(rows["label_map"][key]) for key in FIGURES] == [100] * 6
    # sides of 14 to 23 pixels, one column missing: IoU 13/14 to 22/23
    assert [round(rows["head"][key]) for key in ("AP50", "AP75", "AP90", "F1@5")] == [100] * 4
    # of four sides one is off by a pixel, which is not less than 1
    assert 50 < rows["head"]["F1@1"] < 90 and rows["head"]["AP"] < 100


def test_contours_are_of_detections_above_the_score_and_ap_of_all(run, stand_in):
    rows = run("--score", "0.6")  # the detections have 0.5
    assert rows["label_map"]["F1@5"] == 0 and round(rows["label_map"]["AP"]) == 100


def test_the_network_runs_once_an_image_and_detections_differ_in_their_masks_and_what_they_weigh(tiny_cfg, monkeypatch):
    tiny_cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD, tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.9, 0.0
    torch.manual_seed(0)
    model = Trainer.build_model(tiny_cfg).eval()
    model.proposal_generator.label_head.predictor.bias.data += 1.0
    calls, found = [], []
    for module in (model.backbone, model.roi_heads.iou_pred):
        module.register_forward_hook(lambda module, *args: calls.append(module))
    original = StoredPredictions.detections

    def noted(self, thresholds):
        found.append(original(self, thresholds)[0])
        return [found[-1]]

    monkeypatch.setattr(StoredPredictions, "detections", noted)
    evaluate_masks.evaluate_masks(tiny_cfg, model, score=0.5)
    assert len(calls) == 2 * 6 and len(found) == 2 * 6
    first, second = found[:2]
    assert len(first) > 0

    def sorted_by(key, detections):
        return sorted(d[key] for d in detections)

    assert sorted_by("category_id", first) == sorted_by("category_id", second)
    pairs = zip(sorted_by("score", first), sorted_by("score", second), strict=True)
    assert all(head < label_map for label_map, head in pairs)
    assert {str(d["segmentation"]) for d in first} != {str(d["segmentation"]) for d in second}


def test_weights_that_are_not_there_are_named(run):
    with pytest.raises(FileNotFoundError, match=r"no weights nowhere\.pth"):
        run(opts=("MODEL.WEIGHTS", "nowhere.pth"))
