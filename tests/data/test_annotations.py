"""Segmentations of all kinds; that label files are read instead: test_pascal.py."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from dvis_d2.data.annotations import decode_rle, encode_masks, read_annotations, to_mask

SIZE = (8, 10)
MASK = np.zeros(SIZE, dtype=bool)
MASK[2:5, 3:9] = True
SQUARE = [3, 2, 9, 2, 9, 5, 3, 5]
RLE = encode_masks(MASK[None])[0]


@pytest.mark.parametrize("segmentation", [[SQUARE], [SQUARE, [0, 0, 1, 1]], RLE, MASK, MASK * 7])
def test_every_kind_of_segmentation_gives_one_mask(segmentation):
    mask = to_mask(segmentation, SIZE, "x")
    assert mask.dtype == bool
    assert np.array_equal(mask, MASK)


@pytest.mark.parametrize(
    "bad, message",
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ("x", "no segmentation"),
        ([[0, 0, 1, 1]], "at least 3 points"),
        ([[0, 0, 1, 1, 2, float("inf")]], "all finite"),
        (MASK.T, r"shape \(10, 8\), the image \(8, 10\)"),
        (encode_masks(MASK.T[None])[0], r"shape \(10, 8\), the image \(8, 10\)"),
        ({"size": SIZE}, "cannot be decoded"),
    ],
)
def test_what_is_no_mask_of_the_image_is_named(bad, message):
    with pytest.raises(ValueError, match=f"picture, annotation 1: .*{message}"):
        to_mask(bad, SIZE, "picture, annotation 1")


@pytest.mark.parametrize("kind", ["array", "rle", "file", "color file", "none"])
def test_annotations_and_ignored_pixels_of_a_dict(kind, tmp_path):
    pixels = np.uint8(MASK) * 200
    Image.fromarray(pixels if kind == "file" else np.dstack([pixels, pixels * 0, pixels])).save(tmp_path / "void.png")
    ignore_mask = {"array": MASK, "rle": RLE, "none": None}.get(kind, str(tmp_path / "void.png"))
    entry = {"file_name": "a.png", "height": 8, "width": 10, "annotations": [{"id": 5}], "ignore_mask": ignore_mask}
    annotations, ignored = read_annotations(entry)
    assert annotations == [{"id": 5}]
    assert ignored is None if kind == "none" else np.array_equal(ignored, MASK)


def test_a_dict_without_annotations():
    assert read_annotations({"file_name": "a.png", "height": 8, "width": 10}) == ([], None)


def test_ignored_pixels_of_another_size():
    with pytest.raises(ValueError, match=r"a\.png, ignore_mask: its mask has shape \(10, 8\)"):
        read_annotations({"file_name": "a.png", "height": 8, "width": 10, "ignore_mask": MASK.T})


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
