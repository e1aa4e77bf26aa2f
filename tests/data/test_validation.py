import copy
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from dvis_d2.data import DatasetError, check_coco_json, complete_coco


def rle(mask):
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def good():
    """Two images of 20 x 30 (height x width): two polygons and an RLE, categories with a gap."""
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:6, 3:9] = True
    box = {"iscrowd": 0, "area": 24, "bbox": [3, 2, 6, 4]}
    square = [3, 2, 9, 2, 9, 6, 3, 6]
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 2, "file_name": "b.png", "height": 20, "width": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [square], **box},
            {"id": 2, "image_id": 1, "category_id": 3, "segmentation": rle(mask), **box},
            {"id": 3, "image_id": 2, "category_id": 3, "segmentation": [square], **box},
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }


@pytest.fixture
def check(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / name)

    def run(data, **options):
        content = data if isinstance(data, str) else json.dumps(data)
        (tmp_path / "data.json").write_text(content)
        return check_coco_json(tmp_path / "data.json", tmp_path, **options)

    return run


def test_good_file(check):
    report = check(good())
    assert not report.errors
    assert not report.warnings
    assert report.categories == [(3, "three"), (7, "seven")]
    assert "no errors, no warnings" in str(report)
    report.raise_if_errors()


BROKEN_RLE = {"size": [20, 30], "counts": [5, 5]}
EMPTY_RLE = {"size": [20, 30], "counts": [600]}

# (where in the file, what to put there, what the report must say)
ERRORS = [
    ("images.0.file_name", "c.png", "image files that are not in"),
    ("images.0.file_name", None, "images without a file name"),
    ("images.0.height", 40, "images of another size"),
    ("images.0.width", 0, "images without a size"),
    ("images.0.height", 20.5, "images without a size"),
    ("images.1.id", 1, "image ids that occur twice"),
    ("images.1.id", "x", "image ids that are no integers"),
    ("categories.0.id", 3, "category ids that occur twice"),
    ("categories.0.name", None, "categories without a name"),
    ("annotations.0.id", 2, "annotation ids that occur twice"),
    ("annotations.0.image_id", 9, "annotations of an image that does not exist"),
    ("annotations.0.image_id", [1], "annotations of an image that does not exist"),
    ("annotations.0.category_id", 9, "annotations of a category that does not exist"),
    ("annotations.0.category_id", None, "annotations of a category that does not exist"),
    ("annotations.0.segmentation", None, "annotations without a mask"),
    ("annotations.0.segmentation", [], "annotations without a mask"),
    ("annotations.0.segmentation", "x", "masks of unknown kind"),
    ("annotations.0.segmentation", [[1, 2, 3, 4]], "malformed polygons"),
    ("annotations.0.segmentation", [[1, 2, 3, 4, 5, 6, 7]], "malformed polygons"),
    ("annotations.0.segmentation", [1, 2, 3, 4, 5, 6], "malformed polygons"),
    ("annotations.0.segmentation", [[1, 2, 3, 4, 5, float("nan")]], "no finite numbers"),
    ("annotations.0.segmentation", [[1, 2, 3, 4, 5, "6"]], "no finite numbers"),
    ("annotations.0.segmentation", rle(np.ones((30, 20))), "RLE masks of another size"),
    ("annotations.0.segmentation", BROKEN_RLE, "broken RLE masks"),
    ("annotations.0.segmentation", {"size": [20, 30]}, "broken RLE masks"),
    ("annotations.0.bbox", [], "boxes that are not four numbers"),
    ("annotations.0.bbox", [1, 2, 3, "4"], "boxes that are not four numbers"),
    ("annotations.0.area", "1", "areas that are no number"),
    ("annotations.0.iscrowd", 2, "iscrowd that is neither"),
    ("annotations.0.ignore", 1, '"ignore" flags'),
    ("annotations.0.bbox", None, "without bbox, area or iscrowd"),
    ("annotations.0.area", None, "without bbox, area or iscrowd"),
    ("annotations.0.area", 10**400, "areas that are no number"),
    ("annotations.0.image_id", True, "annotations of an image that does not exist"),
    ("images.0.height", 10**9, "images without a size"),
    ("annotations", [], "an empty list"),
    ("images", [], "an empty list"),
    ("categories", [], "an empty list"),
    ("images", {}, "JSON but not COCO"),
    ("annotations", [3], "JSON but not COCO"),
]
WARNINGS = [
    ("categories.0.name", "three", "category names that occur twice"),
    ("annotations.0.category_id", 3, "categories without annotations"),
    ("annotations.2.image_id", 1, "images without annotations"),
    ("images.1.file_name", "a.png", "listed more than once"),
    ("annotations.0.segmentation", [[3, 2, 39, 2, 9, 6]], "outside of the image"),
    ("annotations.0.segmentation", [[3, -2, 9, 2, 9, 6]], "outside of the image"),
    ("annotations.0.segmentation", [[3, 2, 9, 2, 4, 2]], "empty masks"),
    ("annotations.0.segmentation", EMPTY_RLE, "empty masks"),
    ("annotations.0.segmentation", rle(np.zeros((20, 30))), "empty masks"),
    ("annotations.0.bbox", [1, 2, 0, 4], "boxes without extent"),
    ("annotations.0.area", 0, "areas of 0 or less"),
    ("annotations.0.iscrowd", 1, "crowds drawn as polygons"),
    ("annotations.0.id", 0, "id 0"),
]


def changed(path, value):
    data = good()
    *parents, last = path.split(".")
    target = data
    for key in parents:
        target = target[int(key) if key.isdigit() else key]
    target[last] = value
    return data


@pytest.mark.parametrize(("path", "value", "message"), ERRORS)
def test_what_cannot_work_is_an_error(check, path, value, message):
    report = check(changed(path, value))
    assert any(message in what for what in report.errors), str(report)
    with pytest.raises(DatasetError, match="data.json"):
        report.raise_if_errors()


@pytest.mark.parametrize(("path", "value", "message"), WARNINGS)
def test_what_works_but_may_not_be_meant_is_a_warning(check, path, value, message):
    report = check(changed(path, value))
    assert not report.errors, str(report)
    assert any(message in what for what in report.warnings), str(report)
    report.raise_if_errors()


@pytest.mark.parametrize(
    ("segmentation", "box", "area"),
    [
        ([[0, 0, 30, 0, 30, 20, 0, 20]], [0, 0, 30, 20], 600),
        ([[-1, -1, 31, 0, 31, 21]], [0, 0, 30, 20], 280),
        ([[1, 1, 5, 5, 1, 1], [3, 2, 9, 2, 9, 6]], [1, 1, 8, 5], 12),
    ],
)
def test_masks_at_and_just_beyond_the_border_are_fine(check, segmentation, box, area):
    data = changed("annotations.0.segmentation", segmentation)
    data["annotations"][0].update(bbox=box, area=area)
    report = check(data)
    assert not report.errors
    assert not report.warnings


@pytest.mark.parametrize("key", ["bbox", "area", "iscrowd"])
def test_missing_fields_are_an_error_that_names_the_remedy(check, key):
    data = good()
    del data["annotations"][1][key]
    report = check(data)
    assert f"annotation 2 has no {key}" in str(report)
    assert "--complete" in str(report)
    assert not check(complete_coco(data)).errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not COCO"),
        ("{}", "not COCO"),
        ('{"images": []}', "not COCO"),
        ("", "not JSON"),
    ],
)
def test_not_coco(check, content, message):
    report = check(content)
    assert message in str(report)
    with pytest.raises(DatasetError):
        report.raise_if_errors()


@pytest.mark.parametrize("key", ["image_id", "category_id"])
@pytest.mark.parametrize("kind", [str, float])
def test_ids_of_another_type_name_the_remedy_and_it_helps(check, key, kind):
    data = good()
    for annotation in data["annotations"]:
        annotation[key] = kind(annotation[key])
    assert "--complete" in str(check(data))
    assert not check(complete_coco(data)).errors


def test_names_cannot_change_what_is_printed(check):
    data = changed("categories.0.name", "three\n  ERROR: \x1b[2J\u202e${x}{}")
    data["categories"][1]["name"] = data["categories"][0]["name"]
    text = str(check(data))
    assert r"three\n  ERROR: \x1b[2J\u202e${x}{}" in text
    assert "\x1b" not in text and "\u202e" not in text
    data = changed("images.0.file_name", "\0" + "x" * 100_000)
    assert len(str(check(data))) < 2000


def test_a_hint_where_classes_may_be_counted_from_0(check):
    data = good()
    for annotation in data["annotations"]:
        annotation["category_id"] = 3
    assert "do the annotations count from 0" in str(check(data))


def test_missing_file_and_binary_file(tmp_path):
    assert "cannot be read" in str(check_coco_json(tmp_path / "no.json", tmp_path))
    (tmp_path / "picture.json").write_bytes(b"\xff\xd8\xff\xe0\x00")
    assert "not JSON" in str(check_coco_json(tmp_path / "picture.json", tmp_path))


def test_unreadable_image_file(check, tmp_path):
    data = good()
    (tmp_path / "b.png").write_bytes(b"")
    assert "image files that cannot be read (1)" in str(check(data))


def test_only_a_sample_of_headers_is_read(check, tmp_path):
    data = good()
    Image.new("RGB", (5, 5)).save(tmp_path / "b.png")
    assert check(data).errors
    assert not check(data, max_headers=1).errors  # the first of the two


def test_findings_are_counted_and_three_are_shown(check):
    data = good()
    for _ in range(7):
        data["annotations"].append(copy.deepcopy(data["annotations"][0]))
        data["annotations"][-1].update(id=len(data["annotations"]) + 10, category_id=99)
    text = str(check(data))
    assert "annotations of a category that does not exist (7)" in text
    assert text.count("has category_id 99") == 3


def test_images_are_found_beside_the_json(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / name)
    (tmp_path / "data.json").write_text(json.dumps(good()))
    report = check_coco_json(tmp_path / "data.json")
    assert not report.errors
    assert report.image_root == str(tmp_path / "images")
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    assert check_coco_json(tmp_path / "data.json").image_root == str(tmp_path)
