"""Conversion to COCO's format of data that are in it already, and completion; of PASCAL's formats: test_pascal.py."""

import copy
import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from dvis_d2.data import DatasetError, complete_coco, register_coco_json
from dvis_d2.data.to_coco import to_coco


def test_conversion_of_polygons_keeps_them(tiny_coco):
    json_file, folder = tiny_coco
    original = json.loads(json_file.read_text())
    register_coco_json("to_convert", str(json_file), str(folder))
    try:
        data = to_coco("to_convert")
        with pytest.raises(DatasetError, match="not below"):
            to_coco("to_convert", folder / "elsewhere")
    finally:
        DatasetCatalog.pop("to_convert")
        MetadataCatalog.pop("to_convert")
    assert [c["name"] for c in data["categories"]] == ["green", "pink"]
    assert [image["file_name"] for image in data["images"]] == [image["file_name"] for image in original["images"]]
    for ours, theirs in zip(data["annotations"], original["annotations"], strict=True):
        assert ours["segmentation"] == theirs["segmentation"]
        assert ours["area"] == theirs["area"]
        assert ours["bbox"] == theirs["bbox"]


def test_completion_computes_box_and_area_and_keeps_the_rest(tiny_coco):
    whole = json.loads(tiny_coco[0].read_text())  # polygons and RLE
    partial = copy.deepcopy(whole)
    for annotation in partial["annotations"]:
        del annotation["bbox"], annotation["area"], annotation["iscrowd"]
    del partial["annotations"][1]["id"]
    partial["annotations"][0]["area"] = 5
    before = copy.deepcopy(partial)
    completed = complete_coco(partial)
    assert partial == before
    whole["annotations"][0]["area"] = 5
    whole["annotations"][1]["id"] = 13  # after the greatest of the 12
    assert completed == whole


@pytest.mark.parametrize(
    "gap", [{"bbox": None, "area": None, "iscrowd": None, "id": None}, {"bbox": [1, 1, 0, 0], "area": 0, "id": 0}]
)
def test_completion_repairs_null_and_0(tiny_coco, gap):
    whole = json.loads(tiny_coco[0].read_text())
    partial = copy.deepcopy(whole)
    partial["annotations"][4] |= gap
    whole["annotations"][4]["id"] = len(whole["annotations"]) + 1
    assert complete_coco(partial) == whole


@pytest.mark.parametrize("kind", [str, float])
def test_completion_makes_integers_of_ids_and_sizes(tiny_coco, kind):
    whole = json.loads(tiny_coco[0].read_text())
    partial = copy.deepcopy(whole)
    for image in partial["images"]:
        image |= {key: kind(image[key]) for key in ("id", "height", "width")}
    for entry in partial["categories"]:
        entry["id"] = kind(entry["id"])
    for entry in partial["annotations"]:
        entry |= {key: kind(entry[key]) for key in ("id", "image_id", "category_id")}
    assert complete_coco(partial) == whole


def test_completion_numbers_what_has_names_for_ids_and_what_occurs_twice(tiny_coco):
    whole = json.loads(tiny_coco[0].read_text())
    partial = copy.deepcopy(whole)
    names = {image["id"]: image["file_name"] for image in partial["images"]}
    for image in partial["images"]:
        image["id"] = names[image["id"]]
    for entry in partial["annotations"]:
        entry |= {"id": 7, "image_id": names[entry["image_id"]]}
    unknown = copy.deepcopy(partial)
    unknown["annotations"][0]["image_id"] = 1
    assert complete_coco(unknown)["annotations"][0]["image_id"] == "1"  # not the first image
    completed = complete_coco(partial)
    assert [image["id"] for image in completed["images"]] == list(range(1, len(names) + 1))
    positions = {image["id"]: k for k, image in enumerate(whole["images"], start=1)}
    assert [a["image_id"] for a in completed["annotations"]] == [positions[a["image_id"]] for a in whole["annotations"]]
    assert [a["id"] for a in completed["annotations"]] == [7, *range(8, 7 + len(whole["annotations"]))]


def test_completion_names_the_annotation_that_it_cannot_complete(tiny_coco):
    data = json.loads(tiny_coco[0].read_text())
    del data["annotations"][2]["bbox"]
    data["annotations"][2]["image_id"] = 77
    with pytest.raises(ValueError, match=r"annotation 3 \(entry 2\)"):
        complete_coco(data)
