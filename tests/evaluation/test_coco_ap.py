"""faster-coco-eval against pycocotools, and the wrapper around it."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dvis_d2.evaluation import average_precision, evaluate_coco

H, W = 48, 64
CLASSES = (2, 3, 7, 11)
# pycocotools divides by the number of detections + np.spacing(1), which makes 1 / 1 smaller by as much
ROUNDING = np.spacing(1)


def coco_of(data):
    coco = COCO()
    coco.dataset = data
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def blob(rng):
    y, x = np.mgrid[:H, :W]
    center, radii = rng.uniform(0, (H, W)), rng.uniform(1, 20, 2)
    return ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 < 1


def encode(mask):
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


def made_case(seed, num_images=16):
    """Ground truth and results with crowds, polygons, four classes, images without objects or results, tied scores,
    shifted and empty masks, and up to 130 results in an image."""
    rng = np.random.default_rng(seed)
    images = [{"id": 5 + i, "height": H, "width": W} for i in range(num_images)]
    annotations, results = [], []
    for image in images:
        for _ in range(rng.integers(1, 9) if rng.random() < 0.85 else 0):
            crowd = int(rng.random() < 0.15)
            segmentation = encode(blob(rng))
            mask = mask_util.decode(segmentation)
            if not crowd and rng.random() < 0.3:
                segmentation = [rng.uniform(-5, W, 2 * rng.integers(3, 9)).tolist() for _ in range(rng.integers(1, 3))]
                mask = mask_util.decode(mask_util.merge(mask_util.frPyObjects(segmentation, H, W)))
            category = int(rng.choice(CLASSES))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "segmentation": segmentation,
                    "iscrowd": crowd,
                    "area": int(mask.sum()),
                    "bbox": mask_util.toBbox(encode(mask)).tolist(),
                }
            )
            for _ in range(rng.integers(0, 4)):
                guess = category if rng.random() < 0.85 else int(rng.choice(CLASSES))
                results.append((image["id"], guess, np.roll(mask, rng.integers(-3, 4, 2), (0, 1)), rng.random()))
        for _ in range(rng.integers(0, 130) if rng.random() < 0.8 else 0):
            mask = blob(rng) & (rng.random() < 0.97)
            results.append((image["id"], int(rng.choice(CLASSES)), mask, round(rng.random(), 1)))
    keys = ("image_id", "category_id", "segmentation", "score")
    results = [dict(zip(keys, (i, c, encode(m), round(s, 2)), strict=True)) for i, c, m, s in results]
    assert max(np.bincount([result["image_id"] for result in results])) > 100
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in CLASSES],
    }, results


def by_pycocotools(data, results, image_ids, use_cats, max_dets):
    coco = coco_of(copy.deepcopy(data))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "segm")
        evaluator.params.imgIds, evaluator.params.useCats = image_ids, int(use_cats)
        evaluator.params.maxDets = list(max_dets)
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_dets", [(100,), (7,), (1, 10, 200)], ids=str)
@pytest.mark.parametrize("use_cats", [True, False])
def test_equals_pycocotools(seed, max_dets, use_cats):
    data, results = made_case(seed)
    every = [image["id"] for image in data["images"]]
    if not use_cats:  # else pycocotools orders equal scores by their class, which is not asked for
        results = [result | {"category_id": CLASSES[0]} for result in results]
    for image_ids in (every, every[::-2]):
        expected = by_pycocotools(data, results, image_ids, use_cats, max_dets).eval
        found = evaluate_coco(coco_of(data), results, image_ids, use_cats=use_cats, max_dets=max_dets).eval
        assert 0 < expected["precision"].max() and found["precision"].shape == expected["precision"].shape
        assert np.array_equal(found["recall"], expected["recall"])
        assert np.array_equal(found["scores"], expected["scores"])
        np.testing.assert_allclose(found["precision"], expected["precision"], rtol=0, atol=ROUNDING)


def test_bootstrap_samples_equal_those_of_pycocotools():
    data, results = made_case(4)
    image_ids = [image["id"] for image in data["images"]]
    evaluator = evaluate_coco(coco_of(data), results)
    reference = by_pycocotools(data, results, image_ids, True, (100,))
    whole, matched = average_precision(evaluator), reference.evalImgs
    for sample in np.random.default_rng(0).integers(0, len(image_ids), (5, len(image_ids))):
        starts = range(0, len(matched), len(image_ids))
        reference.evalImgs = [matched[start + i] for start in starts for i in sample]
        with contextlib.redirect_stdout(io.StringIO()):
            reference.accumulate()
        precision = reference.eval["precision"]
        expected = 100 * precision[precision > -1].mean()
        assert average_precision(evaluator, sample=sample) == pytest.approx(expected, abs=1e-12)
    assert average_precision(evaluator) == whole != expected  # samples leave it as it was
    with pytest.raises(ValueError, match="3 images out of 16"):
        average_precision(evaluator, sample=[0, 1, 2])


def test_nothing_found_and_nothing_to_find():
    data, results = made_case(0, num_images=4)
    assert average_precision(evaluate_coco(coco_of(data), [])) == 0
    nowhere = evaluate_coco(coco_of(data | {"annotations": []}), results)
    assert (nowhere.eval["precision"] == -1).all() and average_precision(nowhere) == 0


def test_arguments_stay_as_they_are():
    data, results = made_case(0, num_images=4)
    boxes = [result | {"bbox": [0, 0, 1, 1]} for result in results]  # COCO's code would take their area
    given = copy.deepcopy(boxes)
    found = average_precision(evaluate_coco(coco_of(data), boxes))
    assert boxes == given and found == average_precision(evaluate_coco(coco_of(data), results))


def test_without_classes_any_mask_is_any_object():
    data, _ = made_case(1)
    truth = [a for a in data["annotations"] if not a["iscrowd"]]
    coco = coco_of(data | {"annotations": truth})
    results = [{"image_id": a["image_id"], "segmentation": coco.annToRLE(a), "score": 0.5} for a in truth]
    assert average_precision(evaluate_coco(coco, results, use_cats=False)) == pytest.approx(100)
    assert average_precision(evaluate_coco(coco, results, use_cats=False), iou=0.75) == pytest.approx(100)
