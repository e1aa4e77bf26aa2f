import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Instances
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from dvis_d2.data.cropped_masks import CroppedMasks

MASKS = st_numpy.arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)))


@given(MASKS)
def test_whole_masks_areas_and_rle_survive_the_cropping(masks):
    cropped = CroppedMasks.from_masks(masks)
    np.testing.assert_array_equal(cropped.numpy(), masks)
    np.testing.assert_array_equal(cropped.areas(), masks.sum(axis=(1, 2)))
    assert cropped.to_rle() == mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))


@pytest.mark.parametrize("index", [slice(1, None), [2, 0], np.array([True, False, True]), torch.tensor([1])])
def test_selection_is_that_of_the_masks(index):
    masks = np.random.default_rng(0).random((3, 5, 4)) < 0.3
    selected = CroppedMasks.from_masks(torch.from_numpy(masks))[index]
    index = index.numpy() if isinstance(index, torch.Tensor) else index
    np.testing.assert_array_equal(selected.numpy(), masks[index])


def test_label_image_has_the_first_on_top_or_the_order_that_is_asked_for():
    masks = CroppedMasks((1, 3), np.array([[0, 0, 2, 1], [1, 0, 3, 1]]), [np.ones((1, 2), bool)] * 2)
    assert masks.label_image().tolist() == [[1, 1, 2]]
    assert masks.label_image([0, 1]).tolist() == [[1, 2, 2]]
    assert masks.label_image().dtype == np.int32


def test_they_are_a_field_of_instances():
    masks = CroppedMasks.from_masks(np.eye(3, dtype=bool)[:, None])
    instances = Instances((1, 3), pred_masks=masks, scores=torch.tensor([0.1, 0.9, 0.8])).to("cpu")
    assert instances[instances.scores > 0.5].pred_masks.boxes.tolist() == [[1, 0, 2, 1], [2, 0, 3, 1]]


@pytest.mark.parametrize("box, match", [([0, 0, 3, 2], "the box's size"), ([2, 0, 4, 2], "leaves the image")])
def test_boxes_that_do_not_fit_are_errors(box, match):
    with pytest.raises(ValueError, match=match):
        CroppedMasks((4, 3), np.array([box]), [np.ones((2, 2), bool)])
