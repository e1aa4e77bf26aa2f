import copy
import logging

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from dvis_d2.data import DatasetError, DVISDatasetMapper, build_train_loader
from dvis_d2.data.ground_truth import build_ground_truth
from dvis_d2.data.seen_classes import find_classes, keep_seen_classes
from dvis_d2.engine import argument_parser, setup_cfg

NAMES = ["cat", "dog", "cow"]


def image(name, *classes, crowd=()):
    annotations = [{"category_id": k, "iscrowd": int(k in crowd)} for k in classes]
    return {"file_name": name, "height": 9, "width": 9, "annotations": annotations}


def keep(dicts, *seen):
    return keep_seen_classes(dicts, NAMES, seen, dataset_name="farm")


def test_other_classes_become_crowds_and_images_without_a_seen_class_go(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("dvis_d2"), "propagate", True)  # Detectron2's set-up of loggers ends it
    dicts = [image("a", 0, 1, 2), image("b", 1), image("c"), image("d", 2, 0, crowd=(2,)), image("e", 2, crowd=(2,))]
    before = copy.deepcopy(dicts)
    with caplog.at_level(logging.INFO, logger="dvis_d2"):
        kept = keep(dicts, "cat", "cow")
    assert [entry["file_name"] for entry in kept] == ["a", "d", "e"]
    assert [[a["iscrowd"] for a in entry["annotations"]] for entry in kept] == [[0, 1, 0], [1, 0], [1]]
    assert [a["category_id"] for a in kept[0]["annotations"]] == [0, 1, 2]
    assert dicts == before
    assert (
        "of 5 images of farm, 2 without an annotation of cat, cow are left out" in caplog.text
        and "other classes: 1" in caplog.text
    )


def test_what_cannot_be_chosen_is_named():
    with pytest.raises(
        DatasetError, match="SEEN_CLASSES names horse, mouse, but the classes of farm are cat, dog, cow"
    ):
        keep([image("a", 0)], "mouse", "cat", "horse")
    with pytest.raises(DatasetError, match=r"farm has its classes in label files.*convert_to_coco"):
        keep([{"file_name": "a", "instance_label_file": "a.png"}], "cat")
    assert find_classes(["cow", "cat"], NAMES, dataset_name="farm") == {0, 2}


def test_an_unseen_object_is_neither_object_nor_background():
    masks = np.zeros((2, 9, 9), dtype=bool)
    masks[0, :, :4] = masks[1, :, 2:7] = True  # they overlap in two columns, which stay the seen one's
    entry = {"file_name": "a", "annotations": [{"category_id": k, "segmentation": m} for k, m in enumerate(masks)]}
    (kept,) = keep([entry], "cat")
    instances, ids = build_ground_truth(
        kept["annotations"], T.NoOpTransform(), (9, 9), num_classes=3, file_name=kept["file_name"]
    )
    assert instances.gt_classes.tolist() == [0]
    assert ids[0].tolist() == [1, 1, 1, 1, -1, -1, -1, 0, 0]


def test_the_loader_leaves_out_and_voids(tiny_cfg):
    tiny_cfg.DATASETS.SEEN_CLASSES = ["pink"]
    batch = next(iter(build_train_loader(tiny_cfg)))
    for x in batch:
        assert x["instances"].gt_classes.tolist() == [1]
        assert x["instance_ids"].unique().tolist() == [-1, 0, 1]
        colours = x["image"].permute(1, 2, 0)  # BGR: green is (40, 220, 90), pink (210, 60, 200)
        assert torch.equal(x["instance_ids"] == -1, colours[..., 1] == 220)
        assert torch.equal(x["instance_ids"] == 1, colours[..., 0] == 210)
    tiny_cfg.DATASETS.SEEN_CLASSES = ["disc"]
    with pytest.raises(DatasetError, match="disc, but the classes of custom_train are green, pink"):
        build_train_loader(tiny_cfg)


def test_classes_are_one_without_a_change_of_the_data(tiny_args, tiny_cfg):
    cfg = setup_cfg(argument_parser().parse_args([*tiny_args, "DATASETS.CLASS_AGNOSTIC", "True"]))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1 and len(cfg.DATASETS.CUSTOM.CLASS_NAMES) == 2
    for x, usual in zip(next(iter(build_train_loader(cfg))), next(iter(build_train_loader(tiny_cfg))), strict=True):
        assert usual["instances"].gt_classes.tolist() == [0, 1] and x["instances"].gt_classes.tolist() == [0, 0]
        assert torch.equal(x["instance_ids"], usual["instance_ids"])
    tiny_cfg.DATASETS.CLASS_AGNOSTIC = True
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 2.*the other to 1"):
        DVISDatasetMapper(tiny_cfg, is_train=True)
