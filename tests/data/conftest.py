"""Small copies of VOC and SBD."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from dvis_d2.data.pascal import SPLITS, load_pascal

from .pascal_cases import OBJECTS, label_maps, save_jpeg, save_mat, save_png, write_lists


@pytest.fixture
def root(tmp_path):
    """VOC: train 1, val 2. SBD: train 1, 3, 4; val 2, 5. VOC's detection lists: train 1, 3, val 2, 4, 5."""
    one, two, three, four, five = sorted(OBJECTS)
    voc, sbd = tmp_path / "VOCdevkit/VOC2012", tmp_path / "benchmark_RELEASE/dataset"
    for folder in (
        voc / "JPEGImages",
        voc / "SegmentationObject",
        voc / "SegmentationClass",
        sbd / "img",
        sbd / "inst",
    ):
        folder.mkdir(parents=True)
    write_lists(voc / "ImageSets/Segmentation", {"train": [one], "val": [two], "trainval": [one, two]})
    write_lists(voc / "ImageSets/Main", {"train": [one, three, "2009_000009"], "val": [two, four, five]})
    write_lists(sbd, {"train": [one, three, four], "val": [two, five]})
    for image, objects in OBJECTS.items():
        instance_ids, class_ids = label_maps(image)
        if image in (one, two):
            save_jpeg(voc / f"JPEGImages/{image}.jpg")
            save_png(voc / f"SegmentationObject/{image}.png", instance_ids)
            save_png(voc / f"SegmentationClass/{image}.png", class_ids)
        save_jpeg(sbd / f"img/{image}.jpg")
        save_mat(sbd / f"inst/{image}.mat", label_maps(image, void=False)[0], [o[2] for o in objects.values()])
    return tmp_path


@pytest.fixture
def registered(root):
    """The data sets of ``root`` under the names "tiny_<name>"."""
    names = [f"tiny_{name}" for name in SPLITS]
    for name in SPLITS:
        DatasetCatalog.register(f"tiny_{name}", lambda n=name: load_pascal(n, root))
        MetadataCatalog.get(f"tiny_{name}").set(thing_classes=MetadataCatalog.get(name).thing_classes)
    yield
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
