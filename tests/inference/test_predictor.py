import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from dvis_d2.checkpoint import DVISCheckpointer
from dvis_d2.inference import DVISPredictor


@pytest.mark.parametrize("input_format", ["BGR", "RGB"])
def test_everything_of_one_image(untrained_cfg, tiny_coco, input_format):
    untrained_cfg.INPUT.FORMAT = input_format
    untrained_cfg.INPUT.MIN_SIZE_TEST = 96
    image = cv2.imread(str(tiny_coco[1] / "0.png"))[:48]
    output = DVISPredictor(untrained_cfg)(image)
    assert output["instances"].pred_masks.shape[1:] == (48, 64)
    assert output["label_map"].shape == output["levels"].shape == (48, 64)  # stride 2 of twice the size
    assert output["proposals"].image_size == (96, 128)


@pytest.mark.parametrize("input_format", ["BGR", "RGB"])
def test_an_image_gives_the_same_in_every_form(untrained_cfg, tiny_coco, input_format):
    untrained_cfg.defrost()
    untrained_cfg.INPUT.FORMAT = input_format
    path = tiny_coco[1] / "0.png"
    image = cv2.imread(str(path))
    predictor = DVISPredictor(untrained_cfg)
    expected = predictor(image)["label_map"]
    alpha = np.full_like(image[..., :1], 9)
    for same in (
        path,
        str(path),
        Image.open(path),
        np.dstack([image, alpha]),
        image / 255,
        image.astype(np.uint16) * 257,
    ):
        assert torch.equal(predictor(same)["label_map"], expected)
    assert predictor(image[..., 0])["label_map"].shape == expected.shape
    with pytest.raises(ValueError, match=r"uint8 \(64, 64, 2\)"):
        predictor(image[..., :2])


def test_channels_are_given_as_the_network_expects_them(untrained_cfg):
    blue = np.zeros((64, 64, 3), np.uint8)
    blue[:, :, 0] = 255
    seen = {}
    for input_format in ("BGR", "RGB"):
        untrained_cfg.INPUT.FORMAT = input_format
        predictor = DVISPredictor(untrained_cfg)
        predictor.model.backbone.register_forward_pre_hook(lambda _, args, f=input_format: seen.update({f: args[0]}))
        predictor(blue)
    assert seen["BGR"][0, :, 0, 0].argmax() == 0 and seen["RGB"][0, :, 0, 0].argmax() == 2


def test_classes_that_are_not_told_apart_are_not_named(untrained_cfg, tmp_path):
    untrained_cfg.DATASETS.TEST = ("shapes_val",)
    assert DVISPredictor(untrained_cfg).metadata.thing_classes == MetadataCatalog.get("shapes_val").thing_classes
    untrained_cfg.DATASETS.TEST = ()
    assert DVISPredictor(untrained_cfg).metadata.thing_classes == ["green", "pink"]
    untrained_cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = True
    DVISCheckpointer(build_model(untrained_cfg), str(tmp_path)).save("model_final")
    assert DVISPredictor(untrained_cfg).metadata.thing_classes == ["object"]
