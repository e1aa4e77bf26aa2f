from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dvis_d2.data.label_files import read_instance_labels
from dvis_d2.data.pascal import load_pascal

from .pascal_cases import BORDER, OBJECTS, H, W, label_maps, save_mat, save_png


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


def damage(entry, kind):
    path = entry["instance_label_file"]
    labels = label_maps(entry["image_id"])[0]
    if kind == "missing":
        Path(path).unlink()
    elif kind == "truncated":
        Path(path).write_bytes(Path(path).read_bytes()[:60])
    elif kind == "colors":
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
        ("voc_2012_instance_train", "colors", "palette"),
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
