"""PASCAL VOC and SBD on tiny data of the true formats: palette PNG and MATLAB 5 files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Instances
from PIL import Image
from scipy.io import savemat

from dvis_d2.config import add_dvis_config
from dvis_d2.data import DatasetError, DVISDatasetMapper, build_train_loader, check_coco_json
from dvis_d2.data.label_files import read_instance_labels
from dvis_d2.data.pascal import SPLITS, load_pascal
from dvis_d2.data.to_coco import to_coco
from dvis_d2.evaluation import APrEvaluator

H, W = 20, 30
PALETTE = [(37 * i * (c + 1)) % 256 for i in range(256) for c in range(3)]  # nothing like the indices
# image -> instance id -> (rows, columns, class id from 1)
OBJECTS = {
    "2007_000001": {1: (slice(2, 8), slice(3, 9), 15), 2: (slice(2, 8), slice(11, 20), 7)},
    "2007_000002": {1: (slice(5, 15), slice(5, 25), 20)},
    "2008_000003": {1: (slice(1, 4), slice(1, 4), 1), 2: (slice(10, 18), slice(10, 28), 1)},
    "2008_000004": {1: (slice(4, 9), slice(4, 9), 3)},
    "2008_000005": {1: (slice(4, 9), slice(14, 19), 12)},
}
BORDER = (slice(2, 8), slice(9, 11))  # void, in 2007_000001


def label_maps(image, void=True):
    instance_ids, class_ids = np.zeros((H, W), np.uint8), np.zeros((H, W), np.uint8)
    for k, (rows, cols, class_id) in OBJECTS[image].items():
        instance_ids[rows, cols], class_ids[rows, cols] = k, class_id
    if void and image == "2007_000001":
        instance_ids[BORDER] = class_ids[BORDER] = 255
    return instance_ids, class_ids


def save_png(path, labels):
    image = Image.fromarray(labels)
    image.putpalette(PALETTE)
    assert image.mode == "P"
    image.save(path)


def save_mat(path, labels, categories):
    boundaries = np.empty((20, 1), dtype=object)
    boundaries[:] = [[labels > 0]] * 20
    inst = {"Segmentation": labels, "Categories": np.array(categories, np.uint8)[:, None], "Boundaries": boundaries}
    savemat(path, {"GTinst": inst}, do_compression=True)


def save_jpeg(path):
    Image.fromarray(np.full((H, W, 3), 90, np.uint8)).save(path)


def write_lists(folder, lists):
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{image}\n" for image in images))


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


@pytest.mark.parametrize("name", ["voc_2012_instance_trainval", "voc_2012_instance_aug", "sbd_instance_val"])
def test_labels(root, name):
    for entry in load_pascal(name, root):
        annotations, void = read_instance_labels(entry)
        objects = OBJECTS[entry["image_id"]]
        assert [a["category_id"] + 1 for a in annotations] == [o[2] for o in objects.values()]
        for annotation, (rows, cols, _) in zip(annotations, objects.values(), strict=True):
            expected = np.zeros((H, W), bool)
            expected[rows, cols] = True
            assert np.array_equal(annotation["segmentation"], expected)
            assert annotation["bbox"] == [cols.start, rows.start, cols.stop, rows.stop]
        if entry["image_id"] == "2007_000001":
            assert void[BORDER].all() and void.sum() == 12
        else:
            assert void is None


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


def damage(entry, kind):
    path = entry["instance_label_file"]
    labels = label_maps(entry["image_id"])[0]
    if kind == "missing":
        Path(path).unlink()
    elif kind == "truncated":
        Path(path).write_bytes(Path(path).read_bytes()[:60])
    elif kind == "colours":
        Image.open(path).convert("RGB").save(path)
    elif kind == "size":
        save_png(path, labels[:-1])
    elif kind == "classless":
        save_png(entry["class_label_file"], np.zeros_like(labels))
    elif kind == "other struct":
        savemat(path, {"GTcls": {"Segmentation": labels}})
    elif kind == "categories":
        save_mat(path, labels, [21] * 2)
    elif kind == "too few categories":
        save_mat(path, labels + np.uint8(1), [1])


@pytest.mark.parametrize(
    "name, kind, what",
    [
        ("voc_2012_instance_train", "missing", "does not exist"),
        ("voc_2012_instance_train", "truncated", "cannot read"),
        ("voc_2012_instance_train", "colours", "palette"),
        ("voc_2012_instance_train", "size", "same archive"),
        ("voc_2012_instance_train", "classless", "instance 1 has no class"),
        ("sbd_instance_train", "missing", "does not exist"),
        ("sbd_instance_train", "truncated", "cannot read"),
        ("sbd_instance_train", "other struct", "GTinst"),
        ("sbd_instance_train", "categories", "class 21"),
        ("sbd_instance_train", "too few categories", "no class"),
    ],
)
def test_bad_label_files(root, name, kind, what):
    entry = load_pascal(name, root)[0]
    damage(entry, kind)
    with pytest.raises((ValueError, FileNotFoundError), match=what) as error:
        read_instance_labels(entry)
    assert entry["image_id"] in str(error.value)


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


def test_conversion_program(root, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    program = [sys.executable, str(Path(__file__).parents[2] / "tools/convert_to_coco.py")]
    output = tmp_path / "val.json"
    args = ["--dataset", "voc_2012_instance_val", "--output", str(output)]
    subprocess.run([*program, *args], check=True)
    assert len(json.loads(output.read_text())["annotations"]) == 1
    args[1] = "voc_2012"
    failed = subprocess.run([*program, *args], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "no data set voc_2012;" in failed.stderr and "voc_2012_instance_val" in failed.stderr
