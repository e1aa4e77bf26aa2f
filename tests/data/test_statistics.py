import json
import math

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from dvis_d2 import add_dvis_config
from dvis_d2.data import register_coco_json
from dvis_d2.data.statistics import (
    DataStatistics,
    data_statistics,
    other_pixels,
    resize_factor,
    training_statistics,
)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_dvis_config(cfg)
    return cfg


def image(*annotations, height=40, width=90):
    return {"file_name": "x.png", "height": height, "width": width, "annotations": list(annotations)}


def rectangle(width, height, **more):
    return {"segmentation": [[0, 0, width, 0, width, height, 0, height]], "category_id": 0, **more}


def test_every_kind_of_segmentation_counts_its_pixels_and_crowds_do_not():
    mask = np.zeros((40, 90), dtype=np.uint8, order="F")
    mask[2:5, 1:7] = 1
    rle = mask_util.encode(mask)
    runs = {"size": [40, 90], "counts": [42, 3, 40 * 90 - 45]}
    two_polygons = {"segmentation": rectangle(4, 5)["segmentation"] + [[20, 20, 30, 20, 30, 30, 20, 30]]}
    drawn = [rectangle(10, 10), {"segmentation": rle}, {"segmentation": runs}, {"segmentation": mask}, two_polygons]
    found = data_statistics([image(*drawn, rectangle(30, 30, iscrowd=1)), image(), {}])
    areas = [100, 18, 3, 18, 120]
    expected = np.quantile(2 * np.sqrt(np.array(areas) / math.pi), [0.05, 0.5, 0.95])
    np.testing.assert_allclose(found.diameters, expected)
    np.testing.assert_allclose(found.relative_diameters, expected / 60)
    assert (found.num_images, found.num_objects) == (2, 5)
    assert found.objects_per_image[-1] == 5


def test_sizes_are_least_median_and_largest():
    found = data_statistics([image(height=h, width=2 * h) for h in (10, 20, 60)])
    assert (found.heights, found.widths) == ((10, 20, 60), (20, 40, 120))


def test_no_images_are_zeros():
    assert data_statistics([]) == DataStatistics()


def test_a_registered_coco_file(tiny_coco):
    register_coco_json("statistics_tiny", *tiny_coco)
    areas = [a["area"] for a in json.loads(tiny_coco[0].read_text())["annotations"]]
    found = data_statistics(DatasetCatalog.get("statistics_tiny"))
    assert found.diameters[1] == pytest.approx(2 * math.sqrt(np.median(areas) / math.pi), rel=0.02)


def test_label_files_are_read(registered):
    found = data_statistics(DatasetCatalog.get("tiny_voc_2012_instance_train"))
    assert found.num_objects > 0 and found.diameters[0] > 0


def test_they_survive_json_and_what_a_later_version_adds():
    found = data_statistics([image(rectangle(10, 10))])
    stored = json.loads(json.dumps(found.to_dict())) | {"colors": "many"}
    assert DataStatistics.from_dict(stored) == found


@pytest.mark.parametrize(
    "settings, factor",
    [
        (["INPUT.MIN_SIZE_TEST", 80, "INPUT.MAX_SIZE_TEST", 1000], 2),
        (["INPUT.MIN_SIZE_TEST", 80, "INPUT.MAX_SIZE_TEST", 45], 0.5),
        (["INPUT.MIN_SIZE_TEST", 0], 1),
        (["INPUT.SCALE", 1.5], 1.5),
    ],
)
def test_resize_factor(cfg, settings, factor):
    cfg.merge_from_list(settings)
    assert resize_factor(cfg, (40, 90)) == pytest.approx(factor)


def test_a_training_adds_its_scale(cfg):
    cfg.INPUT.MIN_SIZE_TEST = 80
    found = training_statistics(cfg, [image(height=h) for h in (40, 40, 80)])
    assert found.scale == 2 and found.scale_range == pytest.approx((1.1, 2)) and found.canvas == 180


def test_a_training_adds_the_type_of_its_pixels(cfg, tmp_path):
    cfg.INPUT.NORMALIZE = "none"
    for name, dtype in ("a", np.uint8), ("b", np.uint16):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((40, 90), dtype))
    found = training_statistics(cfg, [image() | {"file_name": str(tmp_path / f"{name}.png")} for name in "abc"])
    assert found.dtypes == ("uint16", "uint8") and found.normalize == "none"


@pytest.mark.parametrize(
    ("of_training", "dtype", "normalize", "warning"),
    [
        (["uint8"], "uint16", "none", "nothing stretches"),
        (["uint8"], "uint16", "auto", ""),
        (["uint16"], "uint16", "none", ""),
        (["uint16"], "uint8", "auto", "NORMALIZE percentile"),
        (["uint16"], "uint8", "percentile", ""),
        (["uint16", "uint8"], "uint8", "auto", ""),
        ([], "uint16", "none", ""),
    ],
)
def test_pixels_that_become_other_values_than_the_trainings_are_told(of_training, dtype, normalize, warning):
    found = other_pixels(DataStatistics.from_dict({"dtypes": of_training}), dtype, normalize)
    assert warning in found and bool(warning) == bool(found)
    assert other_pixels(None, dtype, normalize) == ""  # of a checkpoint without statistics
