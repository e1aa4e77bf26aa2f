import dataclasses
import logging

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.utils import logger

from dvis_d2 import add_dvis_config
from dvis_d2.data import DVISDatasetMapper
from dvis_d2.data.scaling import inference_scale, resize_for_test
from dvis_d2.data.statistics import DataStatistics

# images of 200 to 400 px, enlarged to 800; objects of 5 to 20 px
SMALL_OBJECTS = DataStatistics(scale=4, scale_range=(2, 4), relative_diameters=(0.02, 0.04, 0.07))
LARGE_OBJECTS = dataclasses.replace(SMALL_OBJECTS, relative_diameters=(0.05, 0.2, 0.6))


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 800, 1333
    return cfg


@pytest.mark.parametrize(
    "statistics, side, scale",
    [
        (SMALL_OBJECTS, 200, None),
        (SMALL_OBJECTS, 300, None),
        (SMALL_OBJECTS, 4000, 2),  # more objects, not larger ones
        (SMALL_OBJECTS, 100, 4),
        (LARGE_OBJECTS, 4000, None),
        (LARGE_OBJECTS, 100, None),
        (None, 4000, None),
        (DataStatistics(), 4000, None),
    ],
)
def test_the_scale_stays_that_of_the_training_where_objects_are_small(cfg, statistics, side, scale):
    assert inference_scale(cfg, statistics, (side, side)) == scale


def test_a_fixed_scale_is_that_of_every_image_in_training_and_test(cfg):
    cfg.INPUT.SCALE, cfg.INPUT.CROP.ENABLED = 0.5, False
    assert inference_scale(cfg, LARGE_OBJECTS, (300, 400)) == 0.5
    for mapper in (DVISDatasetMapper(cfg, is_train=True), DVISDatasetMapper(cfg, is_train=False)):
        assert mapper.augmentations.augs[0].get_transform(np.zeros((31, 40, 3))).new_w == 20
    assert resize_for_test(cfg).get_transform(np.zeros((1, 40, 3))).new_h == 1


@pytest.mark.parametrize("statistics", [LARGE_OBJECTS, None])
def test_an_image_far_from_the_training_is_one_warning(cfg, statistics, caplog):
    logger._LOG_COUNTER.clear()
    with caplog.at_level(logging.WARNING):
        inference_scale(cfg, statistics, (500, 500))
        assert not caplog.records
        for _ in range(3):
            inference_scale(cfg, statistics, (4000, 5000))
    (record,) = caplog.records
    assert "5000 x 4000" in record.getMessage() and "INPUT.SCALE" in record.getMessage()
