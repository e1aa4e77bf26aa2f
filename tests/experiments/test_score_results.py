import contextlib
import io
import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from experiments.score_results import main, mean_precision, painted, recall


def strip(*ranges):
    image = np.zeros((2, 40), int)
    for k, (start, end) in enumerate(ranges):
        image[:, start:end] = k + 5
    return image


@pytest.mark.parametrize(
    "found, objects, expected",
    [
        ([], [], 1),
        ([(0, 10)], [], 0),
        ([(0, 10), (20, 30)], [(20, 30), (0, 10)], 1),
        ([(0, 10)], [(0, 10), (20, 30)], 0.5),
        # IoU 8/10 is above .5, .55, ..., .75; IoU 1/2 is above none: 1 of 3 in six of ten, 0 elsewhere
        ([(0, 8), (20, 25)], [(0, 10), (20, 30)], 0.6 / 3),
        ([(0, 40)], [(0, 40)], 1),  # no ground at all
    ],
)
def test_the_mean_precision_is_that_of_the_data_science_bowl(found, objects, expected):
    assert mean_precision(strip(*found), strip(*objects)) == pytest.approx(expected)


def test_the_better_of_two_masks_has_the_pixels_that_they_share():
    masks = strip((0, 10)) > 0, strip((5, 20)) > 0
    assert painted(masks, (2, 40))[0, [0, 7, 12, 30]].tolist() == [1, 1, 2, 0]


def test_recall_by_size_and_border():
    """Objects of 2 x 4, 2 x 10 (at the border), 2 x 12 and 2 x 6 (at the border) pixels; the small one of IoU 3/4 and
    the large one at the border of IoU 1 are found."""
    coco = COCO()
    spans = (4, 8), (30, 40), (10, 22), (0, 6)
    annotations = [
        {"id": k + 1, "image_id": 7, "category_id": 3, "segmentation": rle(*span)} for k, span in enumerate(spans)
    ]
    coco.dataset = {"images": [{"id": 7, "height": 9, "width": 40}], "annotations": annotations, "categories": []}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    spans = (5, 8), (30, 40), (8, 12)
    found = [{"image_id": 7, "score": 0.9, "segmentation": rle(*span)} for span in spans]
    found.append({"image_id": 7, "score": 0.5, "segmentation": rle(0, 6)})  # after as many that are better
    found += [{"image_id": 7, "score": 0.6, "segmentation": rle(38, 39)}] * 97
    assert recall(coco, found) == pytest.approx(
        {"small, inside": 100, "small, border": math.nan, "large, inside": 0, "large, border": 50}, nan_ok=True
    )
    assert recall(coco, [])["large, border"] == 0


def rle(*span):
    image = np.zeros((9, 40), np.uint8, order="F")
    image[3:5, span[0] : span[1]] = 1
    code = coco_mask.encode(image)
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_files_are_scored(tmp_path, last_json):
    spans = (0, 10), (20, 30)
    annotations = [
        {"id": k + 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "area": 20, "bbox": [a, 0, b - a, 2]}
        | {"segmentation": rle(a, b)}
        for k, (a, b) in enumerate(spans)
    ]
    image = {"id": 7, "file_name": "a.png", "height": 9, "width": 40}
    data = {"images": [image], "annotations": annotations, "categories": [{"id": 3, "name": "cell"}]}
    found = [(0.9, (0, 10)), (0.4, (18, 30)), (0.15, (32, 40))]  # IoU 1, 10/12 and 0
    results = [{"image_id": 7, "category_id": 3, "score": s, "segmentation": rle(*span)} for s, span in found]
    for name, value in (("data.json", data), ("all.json", results), ("none.json", [])):
        (tmp_path / name).write_text(json.dumps(value))
    main([str(tmp_path / name) for name in ("data.json", "all.json", "none.json")])
    best, nothing = last_json()["rows"]
    assert best["score"] == 0.2 and best["mean_precision"] == pytest.approx(100 * (0.7 + 0.3 / 3))
    assert best["AP50"] == pytest.approx(100) and 70 < best["AP"] < 90
    assert nothing["AP"] == nothing["mean_precision"] == 0
