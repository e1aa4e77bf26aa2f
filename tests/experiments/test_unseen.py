import copy
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T

from dvis_d2.data import DatasetError
from dvis_d2.data.builtin import ShapesSplit, load_shapes
from dvis_d2.data.ground_truth import build_ground_truth
from dvis_d2.data.shapes_render import CLASS_NAMES
from dvis_d2.engine import argument_parser
from experiments.comparison.training import ComparisonTrainer
from experiments.unseen import SEEN_SHAPES, find_classes, keep_seen_classes, seen_classes, setup_unseen_cfg

NAMES = ["cat", "dog", "cow"]


def image(name, *classes, crowd=()):
    annotations = [{"category_id": k, "iscrowd": int(k in crowd)} for k in classes]
    return {"file_name": name, "height": 9, "width": 9, "annotations": annotations}


def keep(dicts, *seen):
    return keep_seen_classes(dicts, NAMES, seen, dataset_name="farm")


def test_other_classes_become_crowds_and_images_without_a_seen_class_go(caplog):
    dicts = [image("a", 0, 1, 2), image("b", 1), image("c"), image("d", 2, 0, crowd=(2,)), image("e", 2, crowd=(2,))]
    before = copy.deepcopy(dicts)
    with caplog.at_level(logging.INFO, logger="experiments"):
        kept = keep(dicts, "cat", "cow")
    assert [entry["file_name"] for entry in kept] == ["a", "d", "e"]
    assert [[a["iscrowd"] for a in entry["annotations"]] for entry in kept] == [[0, 1, 0], [1, 0], [1]]
    assert {a["category_id"] for entry in kept for a in entry["annotations"]} == {0}
    assert dicts == before
    assert (
        "of 5 images of farm, 2 without an annotation of cat, cow are left out" in caplog.text
        and "other classes: 1" in caplog.text
    )


def test_what_cannot_be_chosen_is_named():
    with pytest.raises(
        DatasetError, match="SEEN_CLASS_NAMES names horse, mouse, but the classes of farm are cat, dog, cow"
    ):
        keep([image("a", 0)], "mouse", "cat", "horse")
    with pytest.raises(DatasetError, match=r"farm has its classes in label files.*dvis convert"):
        keep([{"file_name": "a", "instance_label_file": "a.png"}], "cat")
    assert find_classes(["cow", "cat"], NAMES, dataset_name="farm") == {0, 2}


def test_an_unseen_object_is_neither_object_nor_background():
    masks = np.zeros((2, 9, 9), dtype=bool)
    masks[0, :, :4] = masks[1, :, 2:7] = True  # they overlap in two columns, which stay the seen one's
    entry = {"file_name": "a", "annotations": [{"category_id": 1 - k, "segmentation": m} for k, m in enumerate(masks)]}
    (kept,) = keep([entry], "dog")
    instances, ids = build_ground_truth(
        kept["annotations"], T.NoOpTransform(), (9, 9), num_classes=1, file_name=kept["file_name"]
    )
    assert instances.gt_classes.tolist() == [0]
    assert ids[0].tolist() == [1, 1, 1, 1, -1, -1, -1, 0, 0]


@pytest.fixture
def cfg_of(tiny_args):
    """A function: the config of the tiny data with these classes seen."""

    def load(*seen):
        args = [*tiny_args, "DATASETS.SEEN_CLASS_NAMES", str(list(seen))]
        return setup_unseen_cfg(argument_parser().parse_args(args))

    return load


def test_the_loader_leaves_out_and_voids(cfg_of):
    cfg = cfg_of("pink")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1 and len(cfg.DATASETS.CUSTOM.CLASS_NAMES) == 2
    for x in next(iter(ComparisonTrainer.build_train_loader(cfg))):
        assert x["instances"].gt_classes.tolist() == [0]
        assert x["instance_ids"].unique().tolist() == [-1, 0, 1]
        colors = x["image"].permute(1, 2, 0)  # BGR: green is (40, 220, 90), pink (210, 60, 200)
        assert torch.equal(x["instance_ids"] == -1, colors[..., 1] == 220)
        assert torch.equal(x["instance_ids"] == 1, colors[..., 0] == 210)
    with pytest.raises(DatasetError, match="disc, but the classes of custom_train are green, pink"):
        ComparisonTrainer.build_train_loader(cfg_of("disc"))


def test_all_classes_seen_are_one_without_a_change_of_the_data(cfg_of, tiny_cfg):
    batches = [next(iter(ComparisonTrainer.build_train_loader(cfg))) for cfg in (cfg_of("green", "pink"), tiny_cfg)]
    for x, usual in zip(*batches, strict=True):
        assert usual["instances"].gt_classes.tolist() == [0, 1] and x["instances"].gt_classes.tolist() == [0, 0]
        assert torch.equal(x["instance_ids"], usual["instance_ids"])


def test_a_config_without_seen_classes_is_one_that_every_program_reads(cfg_of):
    assert "SEEN_CLASS_NAMES" not in cfg_of().DATASETS and seen_classes(cfg_of()) == []


def test_shapes_of_seen_classes_are_under_the_ids_of_all(tmp_path):
    split = ShapesSplit("shapes", 12, 401, SEEN_SHAPES)
    dicts = load_shapes("few", split, tmp_path / "few")
    names = MetadataCatalog.pop("few").thing_classes
    assert names == list(CLASS_NAMES)
    assert {names[a["category_id"]] for entry in dicts for a in entry["annotations"]} == set(SEEN_SHAPES)
    assert "shapes_seen_train" in DatasetCatalog
