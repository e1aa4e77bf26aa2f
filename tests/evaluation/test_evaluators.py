"""LVIS and Cityscapes through Detectron2's loaders and evaluators, on tiny data of their formats; skipped where their
packages are not installed."""

import importlib.util
import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, Instances

from dvis_d2 import add_dvis_config
from dvis_d2.data import DVISDatasetMapper
from dvis_d2.engine import Trainer
from dvis_d2.evaluation import build_evaluators, require_packages
from dvis_d2.evaluation.mask_evaluator import read_ground_truth

BOXES = [(4, 8, 34, 38), (60, 10, 100, 50)]  # x0, y0, x1, y1 in images of 64 x 128


class Answers(torch.nn.Module):
    """Finds the objects of a registered data set as they are."""

    def __init__(self, name):
        super().__init__()
        self.dicts = {entry["image_id"]: entry for entry in DatasetCatalog.get(name)}

    def forward(self, inputs):
        return [{"instances": self.find(x)} for x in inputs]

    def find(self, given):
        truth = read_ground_truth(self.dicts[given["image_id"]])
        number = int((~truth.ignored).sum())
        return Instances(
            truth.void.shape,
            pred_masks=torch.from_numpy(truth.masks[~truth.ignored]),
            pred_boxes=Boxes(torch.tensor([a["bbox"] for a in self.dicts[given["image_id"]]["annotations"]])[:number]),
            scores=torch.full((number,), 0.9),
            pred_classes=torch.from_numpy(truth.classes[~truth.ignored]),
        )


def make_cfg(name):
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), (name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(MetadataCatalog.get(name).thing_classes)
    return cfg


def evaluate(name, folder):
    cfg = make_cfg(name)
    loader = build_detection_test_loader(cfg, name, mapper=DVISDatasetMapper(cfg, is_train=False))
    return inference_on_dataset(Answers(name), loader, build_evaluators(cfg, name, str(folder)))


@pytest.fixture
def lvis(tmp_path):
    """Category ids 1203 and 5 of LVIS v1, an image of each split folder."""
    pytest.importorskip("lvis")
    from detectron2.data.datasets import get_lvis_instances_meta, register_lvis_instances

    images, annotations = [], []
    for image_id, split in ((7, "val2017"), (9, "train2017")):
        (tmp_path / split).mkdir()
        file_name = f"{image_id:012d}.jpg"
        cv2.imwrite(str(tmp_path / split / file_name), np.full((64, 128, 3), 90, np.uint8))
        url = f"http://images.cocodataset.org/{split}/{file_name}"
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        images.append({"id": image_id, "coco_url": url, "height": 64, "width": 128, **lists})
        for category, (x0, y0, x1, y1) in zip((1203, 5), BOXES, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
            )
    categories = [{"id": k, "name": str(k), "frequency": "rcf"[k % 3], "image_count": 2} for k in range(1, 1204)]
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    register_lvis_instances("lvis_v1_tiny", get_lvis_instances_meta("lvis_v1"), str(path), f"{tmp_path}/")
    yield "lvis_v1_tiny"
    DatasetCatalog.remove("lvis_v1_tiny")
    MetadataCatalog.remove("lvis_v1_tiny")


@pytest.fixture
def cityscapes(tmp_path):
    """A car, a person, and a group of persons, which is a crowd."""
    pytest.importorskip("cityscapesscripts")
    pytest.importorskip("shapely")
    from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
    from detectron2.data.datasets.cityscapes import load_cityscapes_instances

    images, labels = tmp_path / "leftImg8bit/val", tmp_path / "gtFine/val"
    (images / "ulm").mkdir(parents=True), (labels / "ulm").mkdir(parents=True)
    name = "ulm_000000_000019"
    cv2.imwrite(str(images / f"ulm/{name}_leftImg8bit.png"), np.full((64, 128, 3), 90, np.uint8))
    ids, objects = np.zeros((64, 128), np.uint16), []
    named = [("car", 26000), ("person", 24000), ("persongroup", 24)]
    for (label, number), (x0, y0, x1, y1) in zip(named, [*BOXES, (104, 4, 124, 60)], strict=True):
        ids[y0:y1, x0:x1] = number
        polygon = [[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]
        objects.append({"label": label, "polygon": polygon})
    for kind in ("instanceIds", "labelIds"):
        cv2.imwrite(str(labels / f"ulm/{name}_gtFine_{kind}.png"), ids)
    data = {"imgHeight": 64, "imgWidth": 128, "objects": objects}
    (labels / f"ulm/{name}_gtFine_polygons.json").write_text(json.dumps(data))
    DatasetCatalog.register("tiny_cityscapes", lambda: load_cityscapes_instances(str(images), str(labels)))
    MetadataCatalog.get("tiny_cityscapes").set(
        image_dir=str(images),
        gt_dir=str(labels),
        evaluator_type="cityscapes_instance",
        **_get_builtin_metadata("cityscapes"),
    )
    yield "tiny_cityscapes"
    DatasetCatalog.remove("tiny_cityscapes")
    MetadataCatalog.remove("tiny_cityscapes")


def test_lvis_is_learnt_from_and_evaluated(lvis, tmp_path):
    batch = next(iter(Trainer.build_train_loader(make_cfg(lvis))))
    assert sorted(batch[0]["instances"].gt_classes.tolist()) == [4, 1202]
    results = evaluate(lvis, tmp_path / "output")
    assert results["segm"]["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "output/lvis_instances_results.json").read_text())
    assert {entry["category_id"] for entry in written} == {5, 1203}
    assert "float" not in vars(np)  # lvis needs it; nobody else gets to see it


def test_cityscapes_is_learnt_from_and_evaluated(cityscapes, tmp_path):
    batch = next(iter(Trainer.build_train_loader(make_cfg(cityscapes))))
    classes = MetadataCatalog.get(cityscapes).thing_classes
    assert sorted(classes[k] for k in batch[0]["instances"].gt_classes.tolist()) == ["car", "person"]
    assert set(batch[0]["instance_ids"].unique().tolist()) == {-1, 0, 1, 2}  # the group is ignored
    assert evaluate(cityscapes, tmp_path)["segm"] == pytest.approx({"AP": 100, "AP50": 100})


@pytest.mark.parametrize(
    "name, packages",
    [
        ("lvis_v1_val", "--no-deps lvis"),
        ("cityscapes_fine_instance_seg_train", "cityscapesscripts shapely"),
    ],
)
def test_missing_packages_are_named_with_the_command(monkeypatch, name, packages):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match=f"{name} needs .*: python -m pip install {packages}$"):
        Trainer.build_train_loader(make_cfg(name))
    with pytest.raises(ImportError, match=name):
        Trainer.build_test_loader(make_cfg(name), name)
    with pytest.raises(ImportError, match=name):
        build_evaluators(make_cfg(name), name, "")


def test_other_data_sets_need_no_packages(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    require_packages(["coco_2017_val", "voc_2012_instance_val", "shapes_val"])
