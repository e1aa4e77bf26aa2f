"""PASCAL VOC and SBD on tiny data of the true formats: palette PNG and MATLAB 5 files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Instances

from dvis_d2.config import add_dvis_config
from dvis_d2.data import DatasetError, DVISDatasetMapper, build_train_loader, check_coco_json
from dvis_d2.data.label_files import read_instance_labels
from dvis_d2.data.pascal import SPLITS, load_pascal
from dvis_d2.data.to_coco import to_coco
from dvis_d2.evaluation import APrEvaluator

from .pascal_cases import OBJECTS, H, W, label_maps, save_png


def test_all_are_registered_for_the_pascal_evaluators():
    for name in SPLITS:
        assert name in DatasetCatalog
        metadata = MetadataCatalog.get(name)
        assert metadata.evaluator_type == "pascal_instance"
        assert len(metadata.thing_classes) == 20
        assert (metadata.thing_classes[0], metadata.thing_classes[19]) == ("aeroplane", "tvmonitor")


@pytest.mark.parametrize(
    "name, numbers",
    [
        ("voc_2012_instance_train", "1"),
        ("voc_2012_instance_val", "2"),
        ("voc_2012_instance_trainval", "12"),
        ("voc_2012_instance_aug", "1345"),  # 2 is in SBD, but VOC's val
        ("sbd_instance_train", "13"),  # VOC's list has an image that SBD has not
        ("sbd_instance_val", "245"),
        ("sbd_release_instance_train", "134"),
        ("sbd_release_instance_val", "25"),
    ],
)
def test_lists(root, name, numbers):
    dicts = load_pascal(name, root)
    assert [d["image_id"] for d in dicts] == [image for image in sorted(OBJECTS) if image[-1] in numbers]
    assert all((d["height"], d["width"]) == (H, W) for d in dicts)
    assert all("annotations" not in d for d in dicts)


def test_the_augmented_set_takes_vocs_own_labels_where_there_are(root):
    files = {d["image_id"]: d["instance_label_file"] for d in load_pascal("voc_2012_instance_aug", root)}
    assert files["2007_000001"].endswith("SegmentationObject/2007_000001.png")
    assert files["2008_000003"].endswith("inst/2008_000003.mat")


def test_class_is_that_of_most_pixels_and_void_has_no_vote(tmp_path):
    instance_ids = np.zeros((H, W), np.uint8)
    instance_ids[0, :10] = 4  # ids may have gaps
    class_ids = np.zeros((H, W), np.uint8)
    class_ids[0, :5] = 255
    class_ids[0, 5:7] = 9
    class_ids[0, 7:10] = 2
    save_png(tmp_path / "i.png", instance_ids)
    save_png(tmp_path / "c.png", class_ids)
    files = {"instance_label_file": str(tmp_path / "i.png"), "class_label_file": str(tmp_path / "c.png")}
    annotations, _ = read_instance_labels(files)
    assert [a["category_id"] for a in annotations] == [1]


def test_mapper_reads_label_files_and_ignores_void(root):
    entry = load_pascal("voc_2012_instance_train", root)[0]
    mapper = DVISDatasetMapper(is_train=True, augmentations=[], image_format="BGR", num_classes=20)
    result = mapper(entry)
    expected = label_maps("2007_000001")[0].astype(int)
    expected[expected == 255] = -1
    assert np.array_equal(result["instance_ids"], expected)
    assert result["instances"].gt_classes.tolist() == [14, 6]


def test_mapper_leaves_label_files_alone_when_there_is_no_training(root):
    entry = load_pascal("voc_2012_instance_train", root)[0] | {"instance_label_file": "missing.png"}
    mapper = DVISDatasetMapper(is_train=False, augmentations=[], image_format="BGR")
    assert "instances" not in mapper(entry)


@pytest.mark.parametrize("mixed", [False, True])
def test_training_loader_with_and_without_annotations_in_the_dicts(registered, root, mixed):
    names = ["tiny_voc_2012_instance_aug"]
    if mixed:
        mask = np.zeros((H, W), bool)
        mask[3:9, 3:9] = True
        entry = {"file_name": str(root / "benchmark_RELEASE/dataset/img/2008_000005.jpg"), "height": H, "width": W}
        box = {"bbox": [3, 3, 9, 9], "bbox_mode": 0}
        some = entry | {"image_id": 1, "annotations": [{"segmentation": mask, "category_id": 19, "iscrowd": 0, **box}]}
        none = entry | {"image_id": 2, "annotations": []}
        DatasetCatalog.register("mixed_in", lambda: [some, none])
        MetadataCatalog.get("mixed_in").thing_classes = MetadataCatalog.get(names[0]).thing_classes
        names.insert(0, "mixed_in")
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0, "SEED", 1, "DATASETS.TRAIN", names])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 20
    cfg.INPUT.MIN_SIZE_TRAIN = (H,)
    try:
        loader = iter(build_train_loader(cfg))
        seen = [next(loader)[0] for _ in range(5 if mixed else 4)]
    finally:
        if mixed:
            DatasetCatalog.pop("mixed_in")
            MetadataCatalog.pop("mixed_in")
    images = {"2007_000001", "2008_000003", "2008_000004", "2008_000005"}
    assert {x["image_id"] for x in seen} == (images | {1} if mixed else images)  # the empty image is left out
    assert all(len(x["instances"]) and torch.any(x["instance_ids"] > 0) for x in seen)


def test_missing_folders_say_where_they_belong(tmp_path):
    with pytest.raises(DatasetError, match="VOCdevkit/VOC2012.*DETECTRON2_DATASETS"):
        load_pascal("voc_2012_instance_train", tmp_path)
    with pytest.raises(DatasetError, match="benchmark_RELEASE"):
        load_pascal("sbd_release_instance_train", tmp_path)


def test_missing_and_damaged_files_are_all_named(root):
    voc = root / "VOCdevkit/VOC2012"
    (voc / "JPEGImages/2007_000001.jpg").unlink()
    (voc / "JPEGImages/2007_000002.jpg").write_bytes(b"no picture")
    (voc / "SegmentationClass/2007_000002.png").unlink()
    with pytest.raises(DatasetError) as error:
        load_pascal("voc_2012_instance_trainval", root)
    for path in ("JPEGImages/2007_000001.jpg", "JPEGImages/2007_000002.jpg", "SegmentationClass/2007_000002.png"):
        assert path in str(error.value)
    (voc / "ImageSets/Segmentation/trainval.txt").unlink()
    with pytest.raises(DatasetError, match="trainval.txt"):
        load_pascal("voc_2012_instance_trainval", root)


def test_conversion_to_coco(registered, root, tmp_path):
    data = to_coco("tiny_voc_2012_instance_aug", ignore_as_crowd=True)
    path = tmp_path / "aug.json"
    path.write_text(json.dumps(data))
    report = check_coco_json(path, data["info"]["image_root"])
    assert not report.errors, report
    assert Path(data["info"]["image_root"]) == root
    crowds = [a for a in data["annotations"] if a["iscrowd"]]
    assert [(c["category_id"], c["area"]) for c in crowds] == [(7, 12), (15, 12)]
    things = [a for a in data["annotations"] if not a["iscrowd"]]
    images = {image["id"]: image["original_id"] for image in data["images"]}
    expected = [(i, c, (r.stop - r.start) * (s.stop - s.start)) for i, o in OBJECTS.items() for r, s, c in o.values()]
    found = [(images[a["image_id"]], a["category_id"], a["area"]) for a in things]
    assert found == [e for e in expected if e[0] != "2007_000002"]
    assert things[0]["bbox"] == [3, 2, 6, 6]
    assert len(to_coco("tiny_voc_2012_instance_aug")["annotations"]) == len(things)


def test_perfect_predictions_on_lazy_data_are_perfect(registered):
    """Detectron2's test loader, without annotations in the dicts, and the evaluators."""

    class Perfect(torch.nn.Module):
        def forward(self, batch):
            results = []
            for x in batch:
                annotations, void = read_instance_labels(x)
                instances = Instances((x["height"], x["width"]))
                masks = np.array([a["segmentation"] for a in annotations])
                masks[0] |= False if void is None else void  # void is free
                instances.pred_masks = torch.from_numpy(masks)
                instances.pred_classes = torch.tensor([a["category_id"] for a in annotations])
                instances.scores = torch.ones(len(annotations))
                results.append({"instances": instances})
            return results

    for name in ("tiny_voc_2012_instance_trainval", "tiny_sbd_instance_val"):
        mapper = DVISDatasetMapper(is_train=False, augmentations=[T.Resize((40, 60))], image_format="BGR")
        loader = build_detection_test_loader(DatasetCatalog.get(name), mapper=mapper)
        results = inference_on_dataset(Perfect(), loader, APrEvaluator(name))
        assert [results["ap_r"][key] for key in ("AP50", "AP90", "APavg")] == [100, 100, 100]
