import json

import numpy as np
import pytest
import yaml

from dvis_d2.data.dataset_errors import FormatError
from dvis_d2.data.formats import convert_folder
from tests.data import format_cases as cases


def test_labelme_shapes_of_one_group_are_one_object(tiny_coco, tmp_path):
    root = tmp_path / "set"
    cases.labelme(tiny_coco, root, ("",))
    path = root / "0.json"
    content = json.loads(path.read_text())
    other = {"label": "green", "points": [[40, 50], [60, 50], [60, 60], [40, 60]], "group_id": 3}
    content["shapes"] = [content["shapes"][0] | {"label": "green", "group_id": 3}, other]
    path.write_text(json.dumps(content))
    done = convert_folder(root, tmp_path / "out")
    expected = cases.objects_of(tiny_coco[0])["0"][0][1].copy()
    expected[50:60, 40:60] = True
    ((name, mask),) = (cases.objects_of(done.train_json) | cases.objects_of(done.val_json))["0"]
    assert name == "green" and np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "line, message",
    [
        ("2 0 0 1 0 1 1", "0.txt, line 1 has class 2; data.yaml has 0, 1"),
        ("0 0.5 0.5 0.2 0.2", "line 1 is a box"),
        ("0 0 0 1 0 1", "line 1 is no outline"),
        ("0 0 0 1 0 1 7", "line 1 is no outline"),
        ("0 0 0 1 0 1 nan", "line 1 is no outline"),
        ("cat 0 0 1 0 1 1", "line 1 holds what is no number"),
    ],
)
def test_malformed_yolo_lines_are_named(line, message, tiny_coco, tmp_path):
    cases.yolo(tiny_coco, tmp_path / "set", ("train", "val"))
    (tmp_path / "set" / "labels" / "train" / "0.txt").write_text(line)
    with pytest.raises(FormatError, match=message):
        convert_folder(tmp_path / "set", tmp_path / "out")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"names": None}, '"names" is None'),
        ({"names": ["green"]}, '"nc" 2'),
        ({"names": {"0": "green", 1: "pink"}}, '"names" is {'),
        ({"train": 5}, "data.yaml: 5 is not in"),
        ({"train": "../photos/train"}, "data.yaml: ../photos/train is not in"),
    ],
)
def test_unfit_data_yaml_is_named(change, message, tiny_coco, tmp_path):
    cases.yolo(tiny_coco, tmp_path / "set", ("train", "val"), change)
    with pytest.raises(FormatError, match=message):
        convert_folder(tmp_path / "set", tmp_path / "out")


def test_yolo_by_lists_of_files_with_numbered_names_and_images_without_objects(tiny_coco, tmp_path):
    root = tmp_path / "images" / "set"
    cases.yolo(tiny_coco, root, ("",))
    (root / "list.txt").write_text("".join(f"./images/{k}.png\n" for k in range(4)))
    names = {"names": {0: "green", 1: "pink"}, "train": "list.txt", "val": ["images"]}
    (root / "data.yaml").write_text(yaml.safe_dump(names))
    (root / "labels" / "4.txt").unlink()
    done = convert_folder(root, tmp_path / "out")
    train, val = cases.objects_of(done.train_json), cases.objects_of(done.val_json)
    assert sorted(train) == ["0", "1", "2", "3"] and val["4"] == [] and len(val["5"]) == 2


def test_yolo_without_description_labels_or_outlines(tiny_coco, tmp_path):
    root = tmp_path / "set"
    cases.yolo(tiny_coco, root, ("train", "val"))
    for path in root.glob("labels/*/*.txt"):
        path.rename(path.with_suffix(".old"))
    with pytest.raises(FormatError, match="no labels for the 6 images"):
        convert_folder(root, tmp_path / "out")
    for path in root.glob("labels/*/*.old"):
        path.rename(path.with_suffix(".txt"))
    (root / "data.yaml").unlink()
    with pytest.raises(FormatError, match="0 descriptions.*\n.*names"):
        convert_folder(root, tmp_path / "out")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"shape_type": "line"}, "1.json, shape 1, 'pink', is a line of 2 points"),
        ({"shape_type": "mask", "mask": "aGVsbG8="}, "1.json, shape 1 cannot be read"),
        ({"shape_type": "mask", "mask": "a"}, "1.json, shape 1 cannot be read"),
        ({"points": None}, "1.json, shape 1"),
        ({"points": [[1, 2], [3]]}, "1.json, shape 1 cannot be read"),
        ({"shape_type": "polygon", "points": [[1, 2], [3, float("nan")], [9, 9]]}, "1.json, shape 1 cannot be read"),
        ({"shape_type": "polygon", "points": [[1, 2, 0], [3, 9, 0], [9, 9, 0], [9, 1, 0]]}, "1.json, shape 1 cannot"),
        ({"label": ["pink"]}, "1.json, shape 1 cannot be read"),
        ({"label": None}, "1.json, shape 1 cannot be read"),
    ],
)
def test_unfit_shapes_of_labelme_are_named(change, message, tiny_coco, tmp_path):
    root = tmp_path / "set"
    cases.labelme(tiny_coco, root, ("",))
    content = json.loads((root / "1.json").read_text())
    content["shapes"][1] |= change
    (root / "1.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=message):
        convert_folder(root, tmp_path / "out")
    (root / "1.json").write_text(json.dumps(content | {"imageHeight": 32, "imageWidth": 32}))
    with pytest.raises(FormatError, match="1.json is for an image of 32 x 32 px, .*1.png has 64 x 64"):
        convert_folder(root, tmp_path / "out")
    (root / "1.png").unlink()
    with pytest.raises(FormatError, match="1.json is for .*1.png, which is not there"):
        convert_folder(root, tmp_path / "out")


def test_text_files_of_other_encodings(tiny_coco, tmp_path):
    root = tmp_path / "set"
    cases.yolo(tiny_coco, root, ("train", "val"))
    path = root / "labels" / "train" / "0.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (root / "notes.yaml").write_bytes(b"author: Andr\xe9\n")
    found = cases.objects_of(convert_folder(root, tmp_path / "out").train_json)
    for (name, mask), (wanted, other) in zip(found["0"], cases.objects_of(tiny_coco[0])["0"], strict=True):
        assert name == wanted and np.array_equal(mask, other)
    path.write_bytes(b"\xe9 0 0 1 0 1 1")
    with pytest.raises(FormatError, match="0.txt, line 1 holds what is no number"):
        convert_folder(root, tmp_path / "out")


def test_a_list_of_lists_is_refused(tiny_coco, tmp_path):
    cases.yolo(tiny_coco, tmp_path / "set", ("train", "val"), {"train": "list.txt"})
    (tmp_path / "set" / "list.txt").write_text("list.txt")
    with pytest.raises(FormatError, match="list.txt names another list\n"):
        convert_folder(tmp_path / "set", tmp_path / "out")
