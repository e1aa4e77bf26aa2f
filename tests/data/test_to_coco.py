"""Conversion to COCO's format of data that are in it already; of PASCAL's formats: test_pascal.py."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from dvis_d2.data import DatasetError, register_coco_json
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
