import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from dvis_d2.data.rle import decode_rle, encode_masks

MASKS = np.random.default_rng(0).random((5, 7, 11)) < 0.5


@pytest.mark.parametrize("masks", [MASKS, np.asfortranarray(MASKS), MASKS[:, ::-1], torch.from_numpy(MASKS)])
def test_masks_come_back_and_are_encoded_as_one_by_one(masks):
    rles = encode_masks(masks)
    for rle, mask in zip(rles, np.asarray(masks), strict=True):
        assert rle == mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
        decoded = decode_rle(rle, "x")
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, mask)


def test_no_masks():
    assert encode_masks(np.zeros((0, 4, 5), dtype=bool)) == []


def test_uncompressed_counts_and_text():
    assert decode_rle({"size": [2, 3], "counts": [1, 2, 3]}, "x").tolist() == [[0, 1, 0], [1, 0, 0]]
    (rle,) = encode_masks(MASKS[:1])
    assert np.array_equal(decode_rle({**rle, "counts": rle["counts"].decode()}, "x"), MASKS[0])


@pytest.mark.parametrize("broken", [{"size": [4, 5]}, {"counts": [20]}, {"size": [4, 5], "counts": b"not an rle"}])
def test_what_is_broken_is_named(broken):
    with pytest.raises(ValueError, match="image a, annotation 3: its RLE cannot be decoded"):
        decode_rle(broken, "image a, annotation 3")
