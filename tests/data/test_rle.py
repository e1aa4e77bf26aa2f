import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dvis_d2.data.rle import decode_rle, run_lengths, runs_box

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))


def encode(mask):
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


@given(MASKS)
def test_runs_masks_and_boxes_are_pycocotools(mask):
    rle = encode(mask)
    runs = run_lengths(rle)
    assert np.array_equal(decode_rle(rle, "x"), mask)
    uncompressed = {"size": rle["size"], "counts": runs.tolist()}
    assert np.array_equal(decode_rle(uncompressed, "x"), mask)
    assert mask_util.frPyObjects(uncompressed, *rle["size"]) == rle
    x, y, w, h = mask_util.toBbox(rle)
    assert runs_box(runs, len(mask)) == ((x, y, x + w, y + h) if mask.any() else None)


def test_long_runs_and_differences_below_zero():
    mask = np.zeros((700, 900), dtype=bool)
    mask[3:600:7, 5:800] = True
    assert np.array_equal(decode_rle(encode(mask), "x"), mask)


@given(MASKS, st.integers(1, 5))
def test_whatever_is_cut_off_is_refused(mask, length):
    rle = encode(mask)
    with pytest.raises(ValueError, match="counts are no whole|add up to"):
        run_lengths({**rle, "counts": rle["counts"][:-length]})


@given(st.one_of(st.binary(max_size=40), st.text(max_size=40), st.lists(st.integers(), max_size=9)))
def test_any_counts_are_runs_of_the_image_or_refused(counts):
    try:
        runs = run_lengths({"size": [4, 5], "counts": counts})
    except ValueError:
        return
    assert runs.min() >= 0 and runs.sum() == 20


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [10**9, 10**9], "counts": [10**18]}, "more than 2,147,483,647 pixels"),
        ({"size": [4, 5], "counts": str(b"`0b0")}, r"write counts.decode\(\)"),
        ({"size": [4, 5], "counts": "1\\\\1"}, "escaped twice"),
        ({"size": [4, 5], "counts": "o" * 20 + "0"}, "more than 32 bits"),
        ({"size": [4, 5], "counts": [-1, 21]}, "a run of -1 pixels"),
        ({"size": [4, 5], "counts": [2**64]}, "neither a string nor a list of integers"),
        ({"size": [4, 5], "counts": [20.0]}, "neither a string nor a list of integers"),
        ({"size": [4, 5], "counts": None}, "neither a string nor a list of integers"),
        ({"size": [4, 5], "counts": ""}, "no whole COCO string"),
        ({"size": [4, 5], "counts": "\ud800"}, "no whole COCO string"),
        ({"size": [4, "5"], "counts": [20]}, r"not \[height, width\]"),
        ({"size": 4, "counts": [20]}, r"not \[height, width\]"),
        (None, r"not \[height, width\]"),
    ],
)
def test_what_is_wrong_is_said(rle, message):
    with pytest.raises(ValueError, match=message):
        run_lengths(rle)


def test_a_long_string_of_great_numbers_cannot_overflow():
    with pytest.raises(ValueError, match="a run of"):
        run_lengths({"size": [1000, 1000], "counts": "oooooo?" * 100_000})
