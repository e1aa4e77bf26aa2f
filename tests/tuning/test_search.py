import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from dvis_d2.engine import Trainer
from dvis_d2.evaluation import average_precision
from dvis_d2.tuning import (
    CocoScorer,
    StoredPredictions,
    TuneThresholds,
    coordinate_descent,
    current_thresholds,
    split_halves,
    store_tuning,
    stored_images,
    tune_thresholds,
)

from .conftest import give_answers

FOREGROUND, ALPHA = "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD", "MODEL.DVIS_ROI_HEADS.ALPHA"
SCORE = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"


@given(st.sets(st.integers(0, 10**6)))
@settings(deadline=None, max_examples=50)
def test_halves_are_disjoint_equal_and_together_all(image_ids):
    tuning, held_out = split_halves(list(image_ids))
    assert not set(tuning) & set(held_out)
    assert set(tuning) | set(held_out) == image_ids
    assert 0 <= len(tuning) - len(held_out) <= 1


def test_descent_finds_what_one_key_at_a_time_can_reach():
    calls = []

    def evaluate(setting):
        calls.append(dict(setting))
        return -3 * (setting["a"] - 3) ** 2 - (setting["b"] - setting["a"]) ** 2

    grid = {"a": (0, 1, 2, 3, 4), "b": (0, 1, 2, 3, 4)}
    best, score = coordinate_descent(evaluate, {"a": 0, "b": 0, "kept": 7}, grid, max_rounds=20)
    assert (best, score) == ({"a": 3, "b": 3, "kept": 7}, 0)
    assert len(calls) == len({json.dumps(call) for call in calls})


def test_descent_ignores_gains_up_to_the_minimum():
    grid = {"a": (0, 1, 2)}
    assert coordinate_descent(lambda s: s["a"], {"a": 0}, grid, min_gain=2.0) == ({"a": 0}, 0)
    assert coordinate_descent(lambda s: s["a"], {"a": 0}, grid, min_gain=1.9) == ({"a": 2}, 2)


@pytest.fixture
def model(tiny_cfg):
    """An untrained model whose map is foreground in places, so that there is something to find."""
    torch.manual_seed(0)
    model = Trainer.build_model(tiny_cfg).eval()
    model.proposal_generator.label_head.predictor.bias.data += 1.0
    return model


@pytest.fixture
def all_found(tiny_cfg):
    tiny_cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD = 0.9
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return tiny_cfg


@pytest.mark.parametrize(
    "options",
    [
        {"MASK_SOURCE": "label_map", "NMS": "matrix"},
        {"MASK_SOURCE": "head", "NMS": "hard"},
        {"CLASS_AGNOSTIC": True},
    ],
    ids=str,
)
def test_stored_predictions_are_those_of_the_model(all_found, options):
    for key, value in options.items():
        all_found.MODEL.DVIS_ROI_HEADS[key] = value
    all_found.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.3
    torch.manual_seed(0)
    model = Trainer.build_model(all_found).eval()
    model.proposal_generator.label_head.predictor.bias.data += 1.0
    expected = [model.inference(batch)[0]["instances"] for batch in Trainer.build_test_loader(all_found, "custom_val")]
    images = stored_images(all_found, model, num_images=100)
    predictions = StoredPredictions(model, images)
    thresholds = current_thresholds(all_found)
    predictions.detections(thresholds | {FOREGROUND: 1.1, ALPHA: 1.0})  # leaves nothing behind
    found = predictions.detections(thresholds)
    assert sum(map(len, found)) > 6
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor([d["score"] for d in ours]), theirs.scores)
        assert [d["category_id"] for d in ours] == theirs.pred_classes.tolist()
        masks = torch.stack([torch.from_numpy(coco_mask.decode(d["segmentation"])).bool() for d in ours])
        assert torch.equal(masks, theirs.pred_masks)


def fail(*args):
    raise AssertionError("the network was run again")


def test_keys_of_the_heads_need_no_new_grouping(all_found, model):
    predictions = StoredPredictions(model, stored_images(all_found, model, num_images=2))
    thresholds = current_thresholds(all_found)
    first = predictions.detections(thresholds)
    model.backbone.register_forward_hook(fail)
    model.roi_heads.box_head.register_forward_hook(fail)
    assert predictions.detections(thresholds | {SCORE: 1.0}) == [[], []]
    assert predictions.detections(thresholds) == first


def test_a_map_without_foreground_has_no_detections(all_found, model):
    predictions = StoredPredictions(model, stored_images(all_found, model, num_images=2))
    assert predictions.detections(current_thresholds(all_found) | {FOREGROUND: 1e6}) == [[], []]


def test_limit_takes_evenly_chosen_images(all_found, model):
    assert [image.image_id for image in stored_images(all_found, model, num_images=3)] == [1, 3, 6]


def test_scores_of_perfect_half_and_no_detections(perfect):
    scorer, detections = CocoScorer("custom_val"), list(perfect.values())
    every = list(range(1, 7))
    assert average_precision(scorer.evaluate(detections, every)) == pytest.approx(100)
    assert average_precision(scorer.evaluate([], every)) == 0
    # class 0 is found, class 1 is not
    one_class = [[d for d in image if d["category_id"] == 0] for image in detections]
    assert average_precision(scorer.evaluate(one_class, every), iou=0.9) == pytest.approx(50)
    # images 1-3 are found, 4-6 are not: 51 of COCO's 101 recall points lie at or below 1/2
    evaluator = scorer.evaluate(detections[:3], every)
    assert average_precision(evaluator) == pytest.approx(100 * 51 / 101)
    assert average_precision(evaluator, sample=[0, 1, 2, 2, 1, 0]) == pytest.approx(100)
    assert average_precision(evaluator, sample=[3, 4, 5, 5, 5, 5]) == 0
    assert average_precision(evaluator) == pytest.approx(100 * 51 / 101)  # samples leave it as it was
    # detections on images that are not asked for do not count
    assert average_precision(scorer.evaluate(detections[:3], [1, 2, 3])) == pytest.approx(100)


def test_a_set_without_json_is_scored_by_its_dicts(perfect, tiny_coco):
    name = "without_json"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    dicts = [d | {"image_id": f"name_{d['image_id']}"} for d in DatasetCatalog.get("custom_val")]
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(thing_classes=["green", "pink"])
    detections = [[d | {"image_id": f"name_{d['image_id']}"} for d in image] for image in perfect.values()]
    evaluator = CocoScorer(name).evaluate(detections[:3], [d["image_id"] for d in dicts])
    assert average_precision(evaluator) == pytest.approx(100 * 51 / 101)


def test_the_better_setting_is_found_adopted_and_written(blind_cfg, answering, tmp_path):
    tuning = tune_thresholds(blind_cfg, answering)
    assert tuning.adopted and tuning.counts == (3, 3)
    assert tuning.held_out_ap == pytest.approx((0, 100))
    assert answering.proposal_generator.grouping["foreground_threshold"] == 1.0
    assert "+100.00 AP" in tuning.verdict() and "| 0.00" in tuning.table()
    path = store_tuning(tuning, str(tmp_path))
    with open(path) as f:
        assert yaml.safe_load(f) == {"MODEL": {"MEAN_SHIFT": {"FOREGROUND_THRESHOLD": 1.0}}}


def test_a_gain_that_the_held_out_half_does_not_show_is_dropped(blind_cfg, answering, tiny_coco, tmp_path):
    for name in ("1.png", "3.png", "5.png"):  # image ids 2, 4 and 6, the held-out half
        cv2.imwrite(str(tiny_coco[1] / name), np.zeros((64, 64, 3), np.uint8))
    tuning = tune_thresholds(blind_cfg, answering)
    assert tuning.tuning_ap == pytest.approx((0, 100)) and tuning.held_out_ap == (0, 0)
    assert not tuning.adopted and "no gain beyond noise" in tuning.verdict()
    assert answering.proposal_generator.grouping["foreground_threshold"] == 9.0
    with open(store_tuning(tuning, str(tmp_path))) as f:
        assert not yaml.safe_load(f)


def test_nothing_better_keeps_the_config(blind_cfg, answering):
    blind_cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD = 1.0
    tuning = tune_thresholds(blind_cfg, answering)
    assert tuning.held_out_ap == pytest.approx((100, 100))
    assert not tuning.adopted and tuning.changed == {} and "Nothing" in tuning.verdict()


def test_one_image_cannot_be_halved(blind_cfg, answering):
    with pytest.raises(ValueError, match="custom_val has 1 images"):
        tune_thresholds(blind_cfg, answering, num_images=1)


def test_a_stopped_run_is_not_tuned(blind_cfg, tmp_path):
    blind_cfg.OUTPUT_DIR = str(tmp_path)
    trainer = Trainer(blind_cfg)
    hook = TuneThresholds(blind_cfg)
    hook.trainer, trainer.iter = trainer, blind_cfg.SOLVER.MAX_ITER - 2
    hook.after_train()
    assert not (tmp_path / "thresholds.yaml").exists()


def test_training_tunes_before_the_final_evaluation_and_beside_the_weights(blind_cfg):
    blind_cfg.TEST.TUNE_THRESHOLDS = True
    blind_cfg.SOLVER.MAX_ITER = 1
    Path(blind_cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(blind_cfg)
    give_answers(trainer.unwrapped_model)
    assert trainer.train()["segm"]["AP"] == pytest.approx(100)
    assert trainer.model.training
    assert {"thresholds.yaml", "model_final.pth"} <= {path.name for path in Path(blind_cfg.OUTPUT_DIR).iterdir()}
