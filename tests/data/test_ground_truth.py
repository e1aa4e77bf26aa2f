import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import transforms as T
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.data.annotations import encode_masks
from dvis_d2.data.ground_truth import build_ground_truth

H, W = 24, 36


def rle(mask):
    return encode_masks(mask[None])[0]


def block(top, left, bottom, right):
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def annotation(segmentation, **more):
    return {"segmentation": segmentation, "category_id": 0, **more}


def test_more_than_eight_bitmaps_are_transformed_as_one_by_one():
    """Bitmaps travel in groups of eight; compare 19 of them, overlapping, with each on its own."""
    rng = np.random.default_rng(1)
    masks = [rng.random((H, W)) < 0.5 for _ in range(19)]
    transforms = T.TransformList([T.ResizeTransform(H, W, 31, 50), T.HFlipTransform(50)])
    instances, _ = build_ground_truth(
        [annotation(rle(m)) for m in masks], transforms, (H, W), num_classes=1, file_name="x"
    )
    expected = [transforms.apply_segmentation(m.astype(np.uint8)) for m in masks]
    assert np.array_equal(instances.gt_masks.tensor, np.array(expected, dtype=bool))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(-20, 60, width=32), min_size=6, max_size=12).filter(lambda v: len(v) % 2 == 0))
def test_polygons_are_drawn_as_coco_draws_them(polygon):
    """Drawn in a window of their own, against pycocotools on the whole image."""
    instances, _ = build_ground_truth([annotation([polygon])], T.NoOpTransform(), (H, W), num_classes=1, file_name="x")
    expected = mask_util.decode(mask_util.frPyObjects([polygon], H, W))[..., 0]
    if expected.any():
        assert np.array_equal(instances.gt_masks.tensor[0], expected)
    else:
        assert len(instances) == 0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_instance_ids_match_a_brute_force_painting(seed):
    rng = np.random.default_rng(seed)
    masks, annotations = [], []
    for _ in range(rng.integers(0, 12)):
        top, left = rng.integers(0, H), rng.integers(0, W)
        mask = block(top, left, top + rng.integers(0, 12), left + rng.integers(0, 12))
        crowd = bool(rng.random() < 0.2)
        masks.append((mask, crowd))
        annotations.append(annotation(rle(mask), iscrowd=int(crowd)))
    void = rng.random((H, W)) < 0.1
    _, ids = build_ground_truth(annotations, T.NoOpTransform(), (H, W), num_classes=1, file_name="x", ignore_mask=void)
    kept = [mask for mask, crowd in masks if not crowd and mask.any()]
    for y in range(H):
        for x in range(W):
            covering = [(mask.sum(), k) for k, mask in enumerate(kept, 1) if mask[y, x]]
            in_crowd = any(mask[y, x] for mask, crowd in masks if crowd)
            if void[y, x]:
                assert ids[y, x] == -1
            elif covering:
                smallest = min(area for area, _ in covering)
                assert ids[y, x] in [k for area, k in covering if area == smallest]
            else:
                assert ids[y, x] == (-1 if in_crowd else 0)
