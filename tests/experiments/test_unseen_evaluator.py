import contextlib
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval

from dvis_d2.data import DatasetError
from experiments.class_agnostic import RECALLS, average_recall, coco_of_masks
from experiments.unseen_evaluator import UnseenEvaluator

NAME = "for_recall"
SIZE = (20, 40)
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def box(x0, x1):
    """bool: the full-height columns x0..x1."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, x0:x1] = True
    return mask


def encode(mask):
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))


@pytest.fixture
def register(tmp_path):
    """Write and register a data set of images 0, 1, ..., each a list of (mask, category id) or (..., 1 for a crowd)."""

    def write(*images):
        annotations = []
        for image_id, objects in enumerate(images):
            for mask, category, *crowd in objects:
                rle = encode(mask)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "segmentation": rle | {"counts": rle["counts"].decode()},
                        "bbox": mask_util.toBbox(rle).tolist(),
                        "area": int(mask.sum()),
                        "iscrowd": sum(crowd),
                    }
                )
        size = {"height": SIZE[0], "width": SIZE[1]}
        data = {
            "images": [{"id": i, "file_name": f"{i}.png", **size} for i in range(len(images))],
            "annotations": annotations,
            "categories": CATEGORIES,
        }
        (tmp_path / "set.json").write_text(json.dumps(data))
        MetadataCatalog.get(NAME).json_file = str(tmp_path / "set.json")

    yield write
    MetadataCatalog.pop(NAME)


def output(*detections):
    """Of (mask, score)."""
    masks = np.array([mask for mask, _ in detections], dtype=bool).reshape(-1, *SIZE)
    scores = torch.tensor([score for _, score in detections])
    return {"instances": Instances(SIZE, pred_masks=torch.from_numpy(masks), scores=scores)}


def evaluate(outputs, seen=("cat",)):
    evaluator = UnseenEvaluator(NAME, seen)
    for image_id, found in enumerate(outputs):
        evaluator.process([{"image_id": image_id}], [found])
    return evaluator.evaluate()


def test_recall_by_hand(register):
    """Of three unseen objects one is found, one with IoU .5, which counts at one of ten thresholds, and one is missed;
    of two seen ones, one."""
    cat, dog = 3, 7
    register(
        [(box(0, 10), dog), (box(20, 30), dog), (box(10, 20), cat)],
        [(box(0, 10), dog), (box(20, 30), cat), (box(30, 40), dog, 1)],
    )
    first = output((box(20, 25), 0.9), (box(0, 10), 0.8), (box(10, 20), 0.7))
    second = output((box(33, 39), 0.9))
    recall = evaluate([first, second])["recall"]
    assert list(recall) == [f"{group}/{name}" for group in ("unseen", "seen") for name in RECALLS]
    unseen, seen = ([recall[f"{group}/{name}"] for name in RECALLS] for group in ("unseen", "seen"))
    found = 100 * 1.1 / 3
    assert unseen == pytest.approx([100 * 0.1 / 3, found, found, 200 / 3, 100 / 3])
    assert seen == pytest.approx([0, 50, 50, 50, 50])  # the best mask of the first image is an unseen object's


def test_a_budget_of_ten(register):
    columns = [box(3 * k, 3 * k + 3) for k in range(12)]
    register([(column, 7) for column in columns])
    recall = evaluate([output(*((column, 0.9 - 0.01 * k) for k, column in enumerate(columns)))])["recall"]
    assert [recall[f"unseen/{name}"] for name in RECALLS] == pytest.approx([100 / 12, 1000 / 12, 100, 100, 100])
    assert np.isnan(recall["seen/AR@1"])


def test_one_object_is_found_once(register):
    """Two masks of one object leave the other one missed."""
    register([(box(0, 10), 7), (box(20, 30), 7)])
    assert evaluate([output((box(0, 10), 0.9), (box(0, 10), 0.8))])["recall"]["unseen/AR@100"] == pytest.approx(50)


def test_no_detections_and_no_images(register):
    register([(box(0, 10), 7), (box(20, 30), 3)], [])
    results = evaluate([output(), output()])
    assert set(results["recall"].values()) == {0.0} and results["segm"] == {"AP": 0, "AP50": 0, "AP75": 0}
    results = evaluate([])
    assert all(np.isnan(value) for task in results.values() for value in task.values())
    assert np.isnan(evaluate([output(), output((box(0, 3), 0.5))], seen=())["recall"]["unseen/AR@100"])


def test_images_that_were_not_processed_do_not_count(register):
    register([(box(0, 10), 7)], [(box(0, 10), 7)])
    assert evaluate([output((box(0, 10), 0.9))])["recall"]["unseen/AR@1"] == 100


def test_ap_is_of_all_objects(register):
    register([(box(0, 10), 7), (box(20, 30), 3)])
    assert evaluate([output((box(0, 10), 0.9), (box(20, 30), 0.8))])["segm"]["AP"] == pytest.approx(100)


def test_recall_is_cocos_own():
    """pycocotools' summary of a data set of one class."""
    rng = np.random.default_rng(0)
    images, results = [], []
    for image_id in range(6):
        edges = rng.integers(0, 30, 8)
        objects = [encode(box(x, x + 8)) for x in edges]
        images.append((SIZE, objects, [encode(box(30, 40))]))
        for x in [*(edges + rng.integers(-2, 3, 8)).clip(0), *rng.integers(0, 30, 12)]:
            segmentation = encode(box(x, x + 8))
            results.append({"image_id": image_id, "segmentation": segmentation, "score": float(rng.random())})
    coco = coco_of_masks(images)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes([result | {"category_id": 1} for result in results]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = average_recall(coco, results, range(6))
    assert [found[name] for name in RECALLS[:3]] == pytest.approx(list(100 * evaluation.stats[6:9]))
    assert 0 < found["AR@1"] < found["AR@10"] < found["AR@100"] < found["AR50@100"]


def test_processes_are_gathered(register, monkeypatch):
    register([(box(0, 10), 7)], [(box(0, 10), 3)], [(box(5, 15), 7)])
    outputs = [output((box(0, 9), 0.9)), output((box(0, 8), 0.9)), output((box(0, 10), 0.9), (box(5, 15), 0.1))]
    expected = evaluate(outputs)
    first, second = (UnseenEvaluator(NAME, ["cat"]) for _ in range(2))
    for image_id in (2, 0, 1):
        (second if image_id == 1 else first).process([{"image_id": image_id}], [outputs[image_id]])
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [data, (second._image_ids, second._results)])
    assert first.evaluate() == expected
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert second.evaluate() == {}


def test_what_is_wrong_is_named(register):
    register([(box(0, 10), 7)])
    with pytest.raises(DatasetError, match="names mouse, but the classes of for_recall are cat, dog"):
        UnseenEvaluator(NAME, ["mouse"])
    with pytest.raises(DatasetError, match="voc_2012_instance_val has no annotations in COCO's format"):
        UnseenEvaluator("voc_2012_instance_val")
