import logging

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import logger

from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.data.statistics import DataStatistics
from dvis_d2.engine import Trainer
from dvis_d2.inference.tiled_network import TiledInference

STATISTICS = DataStatistics(
    heights=(64, 64, 64),
    widths=(64, 64, 64),
    diameters=(6, 8, 10),
    relative_diameters=(0.09, 0.12, 0.15),
    objects_per_image=(10, 20, 30),
    scale=2.0,
    scale_range=(2, 2),
    canvas=128,
)


@pytest.fixture
def network(tiny_cfg, monkeypatch):
    """A model that finds the connected parts of the bright pixels; `seen` has the sizes of its inputs."""
    tiny_cfg.INPUT.MIN_SIZE_TEST = 128
    model = Trainer.build_model(tiny_cfg).eval()
    model.seen = []

    def inference(batched_inputs, intermediate=False, cropped=False):
        outputs = []
        for x in batched_inputs:
            model.seen.append(tuple(x["image"].shape[1:]))
            bright = cv2.resize((x["image"][0].numpy() > 127).astype(np.uint8), (x["width"], x["height"]))
            count, labels = cv2.connectedComponents(bright)
            masks = torch.from_numpy(labels == np.arange(1, count)[:, None, None])
            found = Instances(labels.shape, pred_masks=masks, pred_boxes=Boxes(torch.zeros(count - 1, 4)))
            found.scores, found.pred_classes = torch.linspace(1, 0.5, count - 1), torch.zeros(count - 1, dtype=int)
            outputs.append({"instances": found} | ({"label_map": torch.zeros(1, 1)} if intermediate else {}))
        return outputs

    monkeypatch.setattr(model, "inference", inference)
    return model


def drawn(height, width, count=40, seed=0):
    """A picture of white discs, and one bar that is larger than a tile; and how many objects there are."""
    rng, image = np.random.default_rng(seed), np.zeros((height, width, 3), dtype=np.uint8)
    for y, x in zip(rng.integers(0, height, count), rng.integers(0, width, count), strict=True):
        cv2.circle(image, (int(x), int(y)), 5, (255, 255, 255), -1)
    image[height // 2 : height // 2 + 4, 10:-10] = 255
    return image, cv2.connectedComponents(image[:, :, 0])[0] - 1


class File:
    """An image that is read in windows."""

    def __init__(self, image):
        self.image, self.shape, self.largest = image, image.shape[:2], 0

    def read(self, y0, y1, x0, x1):
        self.largest = max(self.largest, (y1 - y0) * (x1 - x0))
        return self.image[y0:y1, x0:x1]


@pytest.mark.parametrize("as_file", [False, True])
def test_a_large_image_is_read_in_tiles_that_leave_no_seam(tiny_cfg, network, as_file):
    image, count = drawn(300, 500)
    given = File(image) if as_file else image
    found = TiledInference(tiny_cfg, network, STATISTICS.to_dict()).predict(given)["instances"]
    assert set(network.seen) == {(256, 256)}  # the training's 128 are raised to the least tile
    assert isinstance(found.pred_masks, CroppedMasks) and len(found) == count
    union = found.pred_masks.numpy().any(axis=0)
    assert (union != (image[:, :, 0] > 0)).mean() < 2e-3 and found.pred_masks.areas().sum() == union.sum()
    assert found.pred_boxes.tensor.tolist() == found.pred_masks.boxes.tolist()
    assert (np.diff(found.scores.numpy()) <= 0).all()
    if as_file:
        assert given.largest == 128**2


def test_an_image_like_the_training_is_one_input_with_its_label_map(tiny_cfg, network):
    image, count = drawn(64, 64, 5)
    output = TiledInference(tiny_cfg, network, STATISTICS).predict(image, label_map=True)
    assert network.seen == [(128, 128)] and "label_map" in output
    assert isinstance(output["instances"].pred_masks, CroppedMasks) and len(output["instances"]) == count


@pytest.mark.parametrize(
    "options, sizes",
    [
        ({"scale": 1.0}, {(256, 256)}),
        ({"scale": 1.0, "tile": 100}, {(100, 100)}),
        ({"tile": 0}, {(600, 1000)}),
        ({"scale": 0.1}, {(30, 50)}),
    ],
)
def test_scale_and_tile_are_the_users_if_given(tiny_cfg, network, options, sizes):
    TiledInference(tiny_cfg, network, STATISTICS, **options).predict(drawn(300, 500)[0])
    assert set(network.seen) == sizes


def test_without_statistics_it_is_resized_as_a_whole(tiny_cfg, network):
    TiledInference(tiny_cfg, network).predict(drawn(300, 500)[0])
    assert network.seen == [(128, 213)]


def test_a_fixed_scale_is_left_to_the_loader_where_an_image_fits_a_tile(tiny_cfg, network):
    tiny_cfg.INPUT.SCALE = 2.0
    tiled = TiledInference(tiny_cfg, network, STATISTICS)
    assert [tiled.scale_of((64, side)) for side in (64, 128, 129)] == [None, None, 2]
    tiled.predict(drawn(64, 128)[0])
    assert network.seen == [(128, 256)]


def test_a_batch_may_hold_both_kinds(tiny_cfg, network):
    images = [drawn(64, 64, 5), drawn(300, 500)]
    inputs = [
        {"image": torch.from_numpy(image.transpose(2, 0, 1).copy()), "height": len(image), "width": image.shape[1]}
        for image, _ in images
    ]
    outputs = TiledInference(tiny_cfg, network, STATISTICS)([inputs[0], inputs[1] | {"scale": 2.0}])
    assert [len(output["instances"]) for output in outputs] == [count for _, count in images]
    assert network.seen[0] == (64, 64)


def test_caps_follow_the_data_and_the_area_and_are_put_back(tiny_cfg, network):
    heads, grouping = network.roi_heads, network.proposal_generator.grouping
    heads.max_detections, grouping["max_proposals"] = 20, 100
    tiled = TiledInference(tiny_cfg, network, STATISTICS)
    for size, caps in ((None, (40, 100)), ((10, 10), (40, 100)), ((128, 128), (160, 160))):
        with tiled.caps(tiled.expected_objects(size)):
            assert (heads.max_detections, grouping["max_proposals"]) == caps
    assert (heads.max_detections, grouping["max_proposals"]) == (20, 100)


def test_evaluation_reads_large_images_in_tiles(tiny_cfg, tiny_coco, monkeypatch):
    """The trainer's own path, with a real network: what is found is evaluated at the size of the stored image."""
    tiny_cfg.TEST.TILE_SIZE, tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 64, 0.0
    model, seen = Trainer.build_model(tiny_cfg), []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    small = DataStatistics(
        heights=(16,) * 3,
        widths=(16,) * 3,
        diameters=(1, 2, 3),
        relative_diameters=(0, 0.1, 0.1),
        scale=2,
        scale_range=(2, 2),
    )
    results = Trainer.test(tiny_cfg, model, statistics=small)
    assert "segm" in results and set(seen) == {(1, 3, 64, 64)} and len(seen) > 6
    assert model.training


@pytest.mark.parametrize(
    "threshold, iou_bias, label_scale, keys",
    [
        (0.0, 10.0, 100, ["MODEL.MEAN_SHIFT.MAX_PROPOSALS = 4", "TEST.DETECTIONS_PER_IMAGE = 4"]),
        (
            0.21,
            0.0,
            100,
            ["MODEL.MEAN_SHIFT.MAX_PROPOSALS = 4", "TEST.DETECTIONS_PER_IMAGE = 4"],
        ),  # a user's confidence
        (0.0, 0.0, 3, []),  # duplicates and doubtful ones always fill the caps
    ],
)
def test_a_cap_that_cuts_off_objects_is_one_warning_that_names_the_key(
    tiny_cfg, tiny_coco, caplog, threshold, iou_bias, label_scale, keys
):
    tiny_cfg.MODEL.MEAN_SHIFT.MAX_PROPOSALS = tiny_cfg.TEST.DETECTIONS_PER_IMAGE = 4
    tiny_cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD = 0.0
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
    torch.manual_seed(0)
    model = Trainer.build_model(tiny_cfg).eval()
    model.proposal_generator.label_head.predictor.weight.data.abs_().mul_(label_scale)
    torch.nn.init.constant_(model.roi_heads.iou_pred.bias, iou_bias)
    logger._LOG_COUNTER.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = TiledInference(tiny_cfg, model).predict(cv2.imread(str(tiny_coco[1] / "0.png")))
    assert len(found["instances"]) == 4  # the caps are full
    messages = [message for message in caplog.messages if "is reached" in message]
    assert [message.split(" is reached")[0] for message in messages] == keys
