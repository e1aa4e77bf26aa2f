"""The statistics of a network that is told the ground truth, and of one that is told too little."""

import json
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances

from dvis_d2.modeling.grouping import group_label_map
from experiments.label_map_statistics import Separation
from experiments.proposal_statistics import (
    format_table,
    measure_image,
    plot_by_objects,
    proposal_ap,
    summarize,
)
from experiments.tables import without_nan

STRIDE = 2
GROUPING = {"bandwidths": (0.9, 0.4), "foreground_threshold": 1.0, "min_area": 4}


class Predictor:
    """Stands for a `DVISPredictor` with a network that gives the label map (h, w) it was made with."""

    def __init__(self, label_map, scale=1):
        self.label_map, self.scale = label_map, scale
        self.model = SimpleNamespace(proposal_generator=SimpleNamespace(stride=STRIDE, grouping=GROUPING))
        self.aug = self

    def get_transform(self, image):
        height, width = image.shape[:2]
        return T.ResizeTransform(height, width, height * self.scale, width * self.scale)

    def __call__(self, image):
        grouping = group_label_map(self.label_map[None], **GROUPING)[0]
        size = image.shape[0] * self.scale, image.shape[1] * self.scale
        proposals = Instances(size, objectness_logits=grouping.scores, soft_masks=grouping.soft)
        return {"label_map": self.label_map, "proposals": proposals}


def annotate(*boxes, iscrowd=0):
    masks = np.zeros((len(boxes), 32, 32), dtype=bool)
    for mask, (y0, y1, x0, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return [{"segmentation": m, "category_id": 0, "iscrowd": iscrowd} for m in masks]


TWO = annotate((4, 12, 4, 28), (12, 28, 4, 28))
IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)


def label_map_of(*values, scale=1):
    """(16 * scale, 16 * scale): the two objects of `TWO` with these labels."""
    label_map = torch.zeros(16, 16)
    label_map[2:6, 2:14], label_map[6:14, 2:14] = values
    return label_map.repeat_interleave(scale, 0).repeat_interleave(scale, 1)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_perfect_map_finds_everything(scale):
    image = measure_image(Predictor(label_map_of(2, 3, scale=scale), scale), IMAGE, TWO, file_name="x.png")
    assert image.overlaps.shape == (2,) and (image.overlaps > 0.9).all()
    assert len(image.proposals) == len(image.scores) == 2 and image.modes == [2, 2]
    assert image.separation.near == image.separation.near_apart > 0
    assert proposal_ap([image])["AP75"] == pytest.approx(100)


def test_a_map_that_confuses_two_objects_finds_the_larger_at_best():
    image = measure_image(Predictor(label_map_of(2, 2)), IMAGE, TWO, file_name="x.png")
    assert len(image.proposals) == 1 and image.modes == [1, 1]
    assert sorted(image.overlaps) == pytest.approx([1 / 3, 2 / 3], abs=0.05)
    assert image.separation.near_apart == image.separation.far_apart == 0 < image.separation.far


def test_a_crowd_is_neither_object_nor_mistake():
    annotations = TWO[:1] + annotate((12, 28, 4, 28), iscrowd=1)
    image = measure_image(Predictor(label_map_of(2, 3)), IMAGE, annotations, file_name="x.png")
    assert len(image.overlaps) == 1 and image.separation == Separation()
    assert len(image.proposals) == 2 and proposal_ap([image])["AP50"] == pytest.approx(100)


@pytest.fixture
def images():
    perfect = measure_image(Predictor(label_map_of(2, 3)), IMAGE, TWO, file_name="a")
    confused = measure_image(Predictor(label_map_of(2, 2)), IMAGE, TWO, file_name="b")
    nothing = measure_image(Predictor(torch.zeros(16, 16)), IMAGE, [], file_name="c")
    return [perfect, confused, nothing]


def test_summary_by_hand(images):
    summary = summarize(images)
    none, two = summary["by_objects"]
    assert (none["objects"], none["images"], none["proposals"], none["modes"]) == (0, 1, 0, [0, 0])
    assert math.isnan(none["recall50"]) and math.isnan(none["near"])
    assert (two["objects"], two["images"], two["proposals"], two["modes"]) == (2, 2, 1.5, [1.5, 1.5])
    assert two["recall50"] == 0.75 and two["recall75"] == 0.5 and two["near"] == two["far"] == 0.5
    assert summary["all"]["recall50"] == 0.75 and summary["all"]["objects"] == pytest.approx(4 / 3)
    assert summary["proposal_histogram"] == {0: 1, 1: 1, 2: 1}
    with pytest.raises(ValueError, match="no image"):
        summarize([])


def test_table_json_and_plot(images, tmp_path, table_rows):
    summary = summarize(images)
    table = format_table(summary, [0.9, 0.4])
    rows = table_rows(table)
    assert rows["2"] == ["2", "1.5", "1.5", "1.5", "0.750", "0.500", "0.500", "0.500"]
    assert rows["all (1.3)"][0] == "3" and "0: 1, 1: 1, 2: 1" in table.splitlines()[-1]
    decoded = json.loads(json.dumps(without_nan(summary), allow_nan=False))
    assert decoded["by_objects"][0]["near"] is None
    plot_by_objects(summary, [0.9, 0.4], str(tmp_path / "plot.png"))
    assert cv2.imread(str(tmp_path / "plot.png")).std() > 1


def test_no_image_with_objects():
    summary = summarize([measure_image(Predictor(torch.zeros(16, 16)), IMAGE, [], file_name="c")])
    assert math.isnan(summary["all"]["AP"]) and format_table(summary, [0.9, 0.4])
