"""What the page shows is what prediction finds."""

import cv2
import numpy as np
import pytest
import torch
import yaml

import dvis_d2
from dvis_d2.explorer import details
from dvis_d2.explorer.sliders import SCORE, checked, controls
from dvis_d2.inference.sources import Source
from dvis_d2.modeling.mean_shift import mean_shift_1d
from dvis_d2.tuning.thresholds import GROUPING_KEYS, HEAD_KEYS, current_thresholds

FOREGROUND = "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD"


def first(explorer):
    return {row["key"]: row["value"] for row in explorer.start()["controls"]}


def test_every_tunable_key_has_a_control_in_whose_range_its_value_lies(explorer):
    rows = controls(current_thresholds(explorer.cfg))
    assert {row["key"] for row in rows} == {*GROUPING_KEYS, *HEAD_KEYS}
    for row in rows:
        values = row["value"] if isinstance(row["value"], list) else [row["value"]]
        if "choices" in row:
            assert set(values) <= set(row["choices"])
        else:
            assert all(row["range"][0] <= value <= row["range"][1] for value in values)


@pytest.mark.parametrize(
    "change",
    [{"MODEL.WEIGHTS": "x"}, {FOREGROUND: "1"}, {FOREGROUND: float("nan")}, {SCORE: 2}]
    + [{"MODEL.MEAN_SHIFT.CANDIDATES": ["pixels"]}, {"MODEL.MEAN_SHIFT.BANDWIDTHS": []}],
)
def test_what_cannot_be_a_threshold_is_refused(explorer, change):
    with pytest.raises(ValueError):
        checked(explorer.cfg, first(explorer) | change)


def test_the_objects_are_those_of_prediction(explorer, drawn):
    image = explorer.view(0)
    for score in (0.5, 0.2):
        found = explorer.find(image, first(explorer) | {SCORE: score})
        result = dvis_d2.load(drawn / "model.safetensors", device="cpu").predict(
            drawn / "5.png", confidence_threshold=score
        )
        assert found.classes.tolist() == result.classes.tolist() and len(result)
        np.testing.assert_allclose(found.scores, result.scores, atol=1e-5)
        assert np.array_equal(found.masks.numpy(), result.masks.numpy())


def test_the_network_runs_once_an_image_and_the_heads_once_a_grouping(explorer, monkeypatch):
    runs = []
    head = explorer.network.proposal_generator.label_head
    head.register_forward_hook(lambda *_: runs.append("network"))
    explorer.network.roi_heads.box_head.register_forward_hook(lambda *_: runs.append("heads"))
    values = first(explorer)
    for change in ({}, {SCORE: 0.3}, {"MODEL.DVIS_ROI_HEADS.ALPHA": 0.1}):
        explorer.find(explorer.view(0), values | change)
    assert runs == ["network", "heads"]
    explorer.find(explorer.view(0), values | {FOREGROUND: 0.9})
    assert runs.count("network") == 1 and runs.count("heads") == 2


def test_an_object_is_explained_without_another_suppression(explorer, monkeypatch):
    view, values = explorer.view(0), first(explorer)
    weighted = values | {"MODEL.DVIS_ROI_HEADS.ALPHA": 0.25}
    explorer.find(view, weighted)
    explorer.find(explorer.view(1), values)  # leaves the model with other thresholds
    monkeypatch.setattr(explorer.network.roi_heads, "detect", None)
    assert details.explain(explorer, view, weighted, 0)[0]["alpha"] == 0.25


def test_a_higher_foreground_threshold_leaves_less_foreground(explorer):
    view, values = explorer.view(0), first(explorer)
    low, high = (explorer.group(view, values | {FOREGROUND: t}).levels for t in (0.5, 2.5))
    assert (low >= 0).sum() > (high >= 0).sum() > 0


def test_the_comparison_sees_hits_and_a_missing_object(explorer):
    view, values = explorer.view(0), first(explorer)
    said, masks = details.compare(explorer, 0, view, values)
    assert len(said["objects"]) == len(masks) == 4 and said["objects"].count("hit") >= 3 and said["ap"][1] > 50
    nothing, _ = details.compare(explorer, 0, view, values | {SCORE: 1.0})
    assert nothing["objects"] == ["miss"] * 4 and nothing["ap"] == [0, 0] and nothing["found"] == []


def test_an_object_is_explained(explorer):
    view, values = explorer.view(0), first(explorer)
    found = explorer.find(view, values)
    said, soft = details.explain(explorer, view, values, 0)
    probability = dict(said["classes"])[explorer.class_names[found.classes[0]]]
    score = said["sure"] * (said["alpha"] * said["iou"] + (1 - said["alpha"]) * probability)
    assert 0.5 <= said["sure"] < 1 and score == pytest.approx(float(found.scores[0]), abs=1e-4)
    x0, y0, x1, y1 = said["box"]
    assert soft.shape == (y1 - y0, x1 - x0) and soft.max() > 200
    assert all(score <= found.scores[0] / said["sure"] and overlap > 0 for score, overlap in said["rivals"])


def test_the_histogram_has_the_modes_of_the_mean_shift_and_valleys_between_them(explorer):
    view, values = explorer.view(0), first(explorer)
    said = details.histogram(explorer, view, values)
    labels = explorer.label_map(view)
    labels = labels[labels > values[FOREGROUND]]
    assert sum(said["counts"]) == labels.size
    for curve in said["curves"]:
        modes, _ = mean_shift_1d(torch.from_numpy(labels), curve["bandwidth"])
        assert curve["modes"] == modes.tolist() and len(curve["valleys"]) == len(modes) - 1
        between = np.searchsorted(curve["modes"], curve["valleys"])
        assert between.tolist() == list(range(1, len(modes)))
        step = (said["high"] - said["low"]) / len(curve["density"])
        at = [curve["density"][min(int((x - said["low"]) / step), 399)] for x in curve["modes"]]
        assert max(at) == pytest.approx(max(curve["density"]), rel=0.02)


def test_thresholds_are_saved_beside_the_weights_and_taken_from_there(explorer, drawn):
    assert explorer.save(first(explorer) | {FOREGROUND: 0.77, SCORE: 0.9}) == str(drawn / "thresholds.yaml")
    stored = yaml.safe_load((drawn / "thresholds.yaml").read_text())["MODEL"]
    assert stored["MEAN_SHIFT"]["FOREGROUND_THRESHOLD"] == 0.77 and "SCORE_THRESH_TEST" not in stored["ROI_HEADS"]
    assert dvis_d2.load(drawn / "model.safetensors").cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD == 0.77
    explorer.cfg.defrost()
    explorer.cfg.MODEL.WEIGHTS = dvis_d2.load("shapes").cfg.MODEL.WEIGHTS
    with pytest.raises(ValueError, match="part of the package"):
        explorer.save(first(explorer))


def test_a_large_image_is_seen_through_a_window(explorer, drawn, tmp_path):
    small = cv2.imread(str(drawn / "5.png"))
    large = np.zeros((900, 1300, 3), np.uint8)
    large[700:828, 1100:1228] = small
    cv2.imwrite(str(tmp_path / "large.png"), large)
    explorer.sources.append(Source(str(tmp_path / "large.png"), "large"))
    explorer.cfg.defrost()
    explorer.cfg.INPUT.SCALE, explorer.cfg.TEST.TILE_SIZE = 1.0, 256
    view = explorer.view(2, (1164, 764))
    y0, y1, x0, x1 = view.window
    assert y0 <= 700 and y1 >= 828 and x0 <= 1100 and x1 >= 1228 and view.size == (900, 1300)
    assert max(y1 - y0, x1 - x0) <= 256 and np.array_equal(view.picture[:, :, ::-1], large[y0:y1, x0:x1])
    corner = explorer.view(2, (1299, 0)).window
    assert corner[0] == 0 and corner[3] == 1300
    overview = explorer.overview(2)
    assert max(overview.shape[:2]) <= 256 and overview.shape[1] > overview.shape[0]
