import contextlib
import io
import json
import os

import pycocotools.mask as mask_util
import pytest

from dvis_d2.data.coco_file import CheckedCOCO, small_ids, write_new_json
from dvis_d2.safe_io import read_json

SQUARE = [3, 2, 9, 2, 9, 6, 3, 6]


def content(*segmentations, image_id=5, category_id=7):
    return {
        "images": [{"id": image_id, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [
            {"id": 0, "image_id": image_id, "category_id": category_id, "segmentation": s, "iscrowd": 0, "area": 24}
            for s in segmentations
        ],
        "categories": [{"id": category_id, "name": "a"}, {"id": category_id + 1, "name": "b"}],
    }


def load(folder, data):
    (folder / "data.json").write_text(json.dumps(data))
    with contextlib.redirect_stdout(io.StringIO()):
        return CheckedCOCO(folder / "data.json")


def test_what_pycocotools_would_read_wrongly_is_put_right(tmp_path):
    far = [-1e9, 2, 9, 2, 9, 6, -1e9, 6]
    coco = load(tmp_path, content([[1, 1, 5, 5], SQUARE], [far], {"size": [20, 30], "counts": [600]}))
    assert sorted(coco.anns) == [1, 2, 3]  # 0 would be "not found" in COCO's evaluation
    areas = [mask_util.area(coco.annToRLE(coco.anns[k])) for k in (1, 2, 3)]
    assert areas == [24, 36, 0]


def test_broken_masks_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.json, annotation 0: its RLE cannot be decoded"):
        load(tmp_path, content({"size": [20, 30], "counts": "1"}))


def test_a_file_without_annotations(tmp_path):
    data = content()
    del data["annotations"]
    assert "annotations" not in load(tmp_path, data).dataset


def test_ids_beyond_float64_become_small_ones(tmp_path):
    coco = load(tmp_path, content([SQUARE], image_id=2**70, category_id=2**80))
    assert (list(coco.imgs), sorted(coco.cats)) == ([1], [1, 2])
    assert (coco.anns[1]["image_id"], coco.anns[1]["category_id"]) == (1, 1)
    assert small_ids([9, 2**53, -4]) == {9: 9, 2**53: 2**53, -4: -4}
    assert small_ids([9, 2**53 + 1, -4]) == {-4: 1, 9: 2, 2**53 + 1: 3}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "data.json").write_text('{"a": "Zellkörper 中"}', encoding=encoding)
    assert read_json(tmp_path / "data.json") == {"a": "Zellkörper 中"}


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, '{"a": 1'])
def test_what_is_no_json_is_a_value_error(tmp_path, text):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(ValueError, match="nested|Expecting"):
        read_json(tmp_path / "data.json")


def test_files_are_written_whole_and_never_over_others(tmp_path):
    path = str(tmp_path / "new.json")
    with pytest.raises(TypeError):
        write_new_json(path, {"a": [1, object()]})
    assert os.listdir(tmp_path) == []
    write_new_json(path, {"a": 1})
    with pytest.raises(FileExistsError, match="not overwritten"):
        write_new_json(path, {"a": 2})
    assert read_json(path) == {"a": 1} and os.listdir(tmp_path) == ["new.json"]
