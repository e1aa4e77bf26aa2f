"""Figures on some of the images, on results made by hand."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from experiments.subsets import image_subsets, mask_ap


def square(x, size, side=32):
    mask = np.zeros((side, side), dtype=np.uint8, order="F")
    mask[4 : 4 + size, x : x + size] = 1
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def annotation(id_, image_id, x=4, category=1, size=10, **extra):
    rle = square(x, size)
    area = float(mask_util.area(rle))
    box = mask_util.toBbox(rle).tolist()
    return {"id": id_, "image_id": image_id, "category_id": category, "iscrowd": 0, "area": area, "bbox": box} | {
        "segmentation": rle,
        **extra,
    }


@pytest.fixture
def dataset():
    """Image 1: an object in parts; 2: copies; 3: neither, of another class; 4: no object."""
    images = [{"id": i, "width": 32, "height": 32, "copies": i == 2, "bar": False} for i in (1, 2, 3, 4)]
    annotations = [
        annotation(1, 1, split=True),
        annotation(2, 1, x=18, split=False),
        annotation(3, 2, split=False),
        annotation(4, 2, x=18, split=False),
        annotation(5, 3, category=2, split=False),
    ]
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}


@pytest.fixture
def coco(dataset):
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def found(image_id, x=4, category=1, score=0.9, size=10):
    return {"image_id": image_id, "category_id": category, "segmentation": square(x, size), "score": score}


def test_subsets_follow_the_flags(dataset):
    assert image_subsets(dataset) == {"split": [1], "copies": [2]}


def test_data_without_flags_have_no_subsets(tiny_coco):
    assert image_subsets(json.loads(tiny_coco[0].read_text())) == {}


def test_ap_counts_the_named_images_only(coco):
    results = [found(1), found(1, x=18), found(2)]  # one of image 2's objects is missed
    assert mask_ap(coco, results, [1]) == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    # recall 1 / 2 at precision 1: 51 of the 101 recalls that COCO averages over
    assert mask_ap(coco, results, [2]) == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75"), 100 * 51 / 101))


def test_false_detections_on_other_images_do_not_count(coco):
    clean, dirty = [found(1), found(1, x=18)], [found(3, score=1.0), found(4, score=1.0)]
    assert mask_ap(coco, clean + dirty, [1])["AP"] == pytest.approx(100)
    assert mask_ap(coco, clean + dirty, [1, 4])["AP"] < 99


def test_ap_of_an_overlap_between_the_thresholds(coco):
    results = [found(3, category=2, size=8)]  # IoU 64 / 100: right at 0.50, 0.55 and 0.60
    assert mask_ap(coco, results, [3]) == pytest.approx({"AP": 30, "AP50": 100, "AP75": 0})


def test_the_mean_over_classes_leaves_out_those_that_do_not_occur(coco):
    assert mask_ap(coco, [found(3, category=2), found(3, category=1)], [3])["AP"] == pytest.approx(100)
    assert mask_ap(coco, [found(3, category=2)], [1, 3])["AP"] == pytest.approx(50)


def test_nothing_found_and_nothing_to_find(coco):
    assert mask_ap(coco, [], [1, 2]) == {"AP": 0, "AP50": 0, "AP75": 0}
    assert all(np.isnan(value) for value in mask_ap(coco, [found(4)], [4]).values())


def test_results_are_left_as_they_are(coco):
    results = [found(1)]
    mask_ap(coco, results, [1])
    assert results == [found(1)]


def test_detections_beyond_the_limit_do_not_count(coco):
    results = [found(1, score=0.2), found(1, x=18, score=0.1), found(1, x=10, score=0.9)]
    assert mask_ap(coco, results, [1], max_dets=1)["AP"] == 0
    assert mask_ap(coco, results, [1])["AP"] > 50
