import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from PIL import Image
from scipy.io import savemat

from dvis_d2.config import add_dvis_config
from dvis_d2.evaluation import APrEvaluator, ContourF1Evaluator, build_evaluators

NAME = "for_ap_r"
H, W = 12, 16
CLASSES = ["cat", "dog", "sheep"]
KEYS = ["AP50", "AP60", "AP70", "AP80", "AP90", "APavg"]


def block(top, left, bottom, right):
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def output(*detections):
    """A model's output from (mask, score, class)."""
    instances = Instances((H, W))
    instances.pred_masks = torch.from_numpy(np.array([d[0] for d in detections], dtype=bool).reshape(-1, H, W))
    instances.scores = torch.tensor([d[1] for d in detections])
    instances.pred_classes = torch.tensor([d[2] for d in detections], dtype=torch.int64)
    return {"instances": instances}


def entry(image_id, *annotations, **more):
    """A dataset dict from (mask, class) or (mask, class, extra keys)."""
    annotations = [{"segmentation": a[0], "category_id": a[1], **(a[2] if len(a) > 2 else {})} for a in annotations]
    return {"image_id": image_id, "file_name": f"{image_id}.jpg", "height": H, "width": W} | {
        "annotations": annotations,
        **more,
    }


@pytest.fixture
def register():
    def register(*entries):
        DatasetCatalog.pop(NAME, None)
        DatasetCatalog.register(NAME, lambda: list(entries))
        MetadataCatalog.get(NAME).set(thing_classes=CLASSES)

    yield register
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def evaluate(evaluator, outputs):
    evaluator.reset()
    for image_id, given in outputs.items():
        evaluator.process([{"image_id": image_id}], [given])
    return evaluator.evaluate()["ap_r"]


def test_by_hand(register):
    # Two cats; the first detection has IoU 8/10 with one, the second is wrong, the third has IoU 1/2 with the other.
    register(entry("a", (block(0, 0, 2, 5), 0)), entry("b", (block(4, 4, 6, 8), 0), (block(8, 8, 12, 12), 1)))
    outputs = {
        "a": output((block(0, 0, 2, 4), 0.9, 0), (block(8, 0, 10, 5), 0.8, 0)),
        "b": output((block(4, 4, 6, 6), 0.7, 0)),
    }
    results = evaluate(APrEvaluator(NAME), outputs)
    found_both, found_one = 100 * (1 / 2 + 2 / 3 / 2), 50.0
    cat_average = (5 * found_both + 3 * found_one) / 9  # .1-.5 both, .6-.8 one, .9 none
    assert results["AP50-cat"] == pytest.approx(found_both)
    assert results["APavg-cat"] == pytest.approx(cat_average)
    assert results["AP50-dog"] == results["APavg-dog"] == 0
    assert np.isnan(results["AP50-sheep"])  # there is none, so it does not count
    expected = [found_both / 2, found_one / 2, found_one / 2, found_one / 2, 0, cat_average / 2]
    assert [results[key] for key in KEYS] == pytest.approx(expected)


def test_void_is_taken_out_of_both_masks(register):
    void = block(0, 4, 12, 16)
    register(entry("a", (block(0, 0, 4, 5), 0), ignore_mask=void))
    # the detection fills void, and has 8 of the 16 remaining pixels
    results = evaluate(APrEvaluator(NAME), {"a": output((block(0, 2, 12, 16) & (void | block(0, 0, 4, 16)), 0.9, 0))})
    assert (results["AP50"], results["AP60"]) == (100, 0)


def test_detections_and_objects_altogether_in_void(register):
    register(entry("a", (block(0, 0, 4, 4), 0), (block(8, 8, 9, 9), 0), ignore_mask=block(8, 8, 12, 16)))
    detections = [(block(9, 9, 11, 11), 0.9, 0), (block(0, 0, 4, 4), 0.5, 0)]
    assert evaluate(APrEvaluator(NAME), {"a": output(*detections)})["APavg"] == 100
    empty = (block(0, 0, 0, 0), 0.8, 0)  # a mask without any pixel is wrong, not ignored
    assert evaluate(APrEvaluator(NAME), {"a": output(*detections, empty)})["APavg"] == 50


def test_crowds_and_difficult_objects(register):
    crowd, difficult = {"iscrowd": 1}, {"difficult": 1}
    register(
        entry("a", (block(0, 0, 4, 4), 0), (block(6, 0, 12, 16), 0, crowd), (block(0, 8, 4, 12), 0, difficult)),
    )
    found = (block(0, 0, 4, 4), 0.1, 0)
    in_crowd = [(block(6, 0, 8, 3), 0.9, 0), (block(6, 4, 8, 7), 0.8, 0)]  # small parts, as many as you like
    on_difficult = (block(0, 8, 4, 12), 0.7, 0)
    assert evaluate(APrEvaluator(NAME), {"a": output(found, *in_crowd, on_difficult)})["APavg"] == 100
    part_of_difficult = (block(0, 8, 2, 10), 0.7, 0)  # IoU 1/4: a difficult object is no region
    assert evaluate(APrEvaluator(NAME), {"a": output(found, part_of_difficult)})["AP50"] == 50
    other_class = (block(6, 0, 8, 3), 0.9, 1)  # a crowd of cats excuses no dog; there is no dog to find either
    assert evaluate(APrEvaluator(NAME), {"a": output(found, other_class)})["APavg"] == 100


def test_no_predictions_and_no_images(register):
    register(entry("a", (block(0, 0, 4, 4), 0)))
    assert evaluate(APrEvaluator(NAME), {"a": output()})["AP50"] == 0
    assert np.isnan(evaluate(APrEvaluator(NAME), {})["AP50"])
    register(entry("a"))
    assert np.isnan(evaluate(APrEvaluator(NAME), {"a": output((block(0, 0, 4, 4), 0.5, 0))})["APavg"])


def test_predictions_that_do_not_fit(register):
    register(entry("a", (block(0, 0, 4, 4), 0)))
    with pytest.raises(ValueError, match="a.jpg.*NUM_CLASSES"):
        evaluate(APrEvaluator(NAME), {"a": output((block(0, 0, 4, 4), 0.5, 3))})
    wrong = output((block(0, 0, 4, 4), 0.5, 0))
    wrong["instances"].pred_masks = wrong["instances"].pred_masks[:, :-1]
    with pytest.raises(ValueError, match="a.jpg.*size"):
        evaluate(APrEvaluator(NAME), {"a": wrong})
    register(entry("a"), entry("a"))
    with pytest.raises(ValueError, match="occur twice"):
        APrEvaluator(NAME)


def test_ground_truth_of_every_kind(register, tmp_path):
    mask = block(2, 3, 8, 9)
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    plain = {"size": [H, W], "counts": [0, H * W]}
    ids = np.where(mask, 1, 0).astype(np.uint8)
    ids[0, 0] = 255
    for name, labels in (("i", ids), ("c", ids * 3)):
        image = Image.fromarray(np.where(ids == 255, 255, labels).astype(np.uint8))
        image.putpalette(list(range(256)) * 3)
        image.save(tmp_path / f"{name}.png")
    savemat(tmp_path / "i.mat", {"GTinst": {"Segmentation": ids, "Categories": [[3]]}})
    files = {"instance_label_file": str(tmp_path / "i.png"), "class_label_file": str(tmp_path / "c.png")}
    png, mat = entry("png", **files), entry("mat", instance_label_file=str(tmp_path / "i.mat"))
    del png["annotations"], mat["annotations"]
    register(
        entry("polygon", ([[3, 2, 9, 2, 9, 8, 3, 8]], 2)),
        entry("rle", (rle, 2)),
        entry("plain", (plain, 2)),
        png,
        mat,
    )
    found = output((mask, 0.9, 2))
    outputs = dict.fromkeys(("polygon", "rle", "png", "mat"), found) | {"plain": output((block(0, 0, H, W), 0.8, 2))}
    assert evaluate(APrEvaluator(NAME), outputs)["APavg"] == 100
    register(entry("a", (None, 0)))
    with pytest.raises(ValueError, match="a.jpg, annotation 0"):
        evaluate(APrEvaluator(NAME), {"a": found})


def random_case(seed, images=7):
    """Dataset dicts and outputs full of ties, duplicates, near misses, void and crowds."""
    rng = np.random.default_rng(seed)

    def box():
        top, left = rng.integers(0, H - 4), rng.integers(0, W - 4)
        return block(top, left, top + rng.integers(2, 6), left + rng.integers(2, 6))

    entries, outputs = [], {}
    for image_id in range(images):
        objects = [(box(), int(rng.integers(2)), {"iscrowd": int(rng.random() < 0.2)}) for _ in range(rng.integers(5))]
        void = rng.random((H, W)) < 0.1
        entries.append(entry(image_id, *objects, ignore_mask=void))
        detections = []
        for mask, class_id, _ in objects:
            for _ in range(rng.integers(3)):
                noisy = mask ^ (rng.random((H, W)) < rng.choice([0, 0.03, 0.08]))
                detections.append((noisy, float(rng.integers(1, 6)) / 5, class_id))
        detections += [(box(), float(rng.integers(1, 6)) / 5, int(rng.integers(3))) for _ in range(rng.integers(3))]
        outputs[image_id] = output(*detections)
    return entries, outputs


def naive_ap(entries, outputs, class_id, threshold):
    """AP of one class: one list of all detections, sorted; boolean masks; the area as a sum over objects."""
    detections, free, crowds, count = [], {}, {}, 0
    for item in entries:
        image, void = item["image_id"], item["ignore_mask"]
        mine = [a for a in item["annotations"] if a["category_id"] == class_id]
        masks = {kind: [a["segmentation"] & ~void for a in mine if a["iscrowd"] == kind] for kind in (0, 1)}
        masks = {kind: [m for m in some if m.any()] for kind, some in masks.items()}
        free[image], crowds[image] = [[m, True] for m in masks[0]], masks[1]
        count += len(masks[0])
        found = outputs[image]["instances"]
        for mask, score, c in zip(found.pred_masks.numpy(), found.scores.tolist(), found.pred_classes, strict=True):
            if c == class_id:
                detections.append((score, image, mask & ~void, mask.any()))
    if count == 0:
        return np.nan
    outcome = []
    for _, image, mask, any_pixel in sorted(detections, key=lambda d: -d[0]):
        ious = [(mask & m).sum() / max(1, (mask | m).sum()) for m, _ in free[image]]
        best = int(np.argmax(ious)) if ious else -1
        if ious and ious[best] >= threshold and free[image][best][1]:
            free[image][best][1] = False
            outcome.append(True)
        elif any_pixel and not mask.any():
            pass
        elif any((mask & m).sum() >= threshold * mask.sum() > 0 for m in crowds[image]):
            pass
        else:
            outcome.append(False)
    precision = [sum(outcome[: n + 1]) / (n + 1) for n in range(len(outcome))]
    return sum(max(precision[n:]) for n, hit in enumerate(outcome) if hit) / count


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_an_independent_implementation(register, seed):
    entries, outputs = random_case(seed)
    register(*entries)
    results = evaluate(APrEvaluator(NAME), outputs)
    expected = 100 * np.array([[naive_ap(entries, outputs, k, t / 10) for t in range(1, 10)] for k in range(3)])
    for name, (*_, at_half, _, _, _, _) in zip(CLASSES, expected, strict=True):
        assert results[f"AP50-{name}"] == pytest.approx(at_half, nan_ok=True)
    found = [results[f"APavg-{name}"] for name in CLASSES]
    assert found == pytest.approx(expected.mean(axis=1).tolist(), nan_ok=True)
    with_objects = expected[~np.isnan(expected[:, 0])]
    assert [results[key] for key in KEYS] == pytest.approx([*with_objects.mean(axis=0)[4:], with_objects.mean()])


@pytest.mark.parametrize("kind", [APrEvaluator, ContourF1Evaluator])
def test_two_processes_agree_with_one(register, monkeypatch, kind):
    entries, outputs = random_case(3)
    register(*entries)
    one = kind(NAME)
    for image_id, given in outputs.items():
        one.process([{"image_id": image_id}], [given])
    expected = one.evaluate()
    first, second = kind(NAME), kind(NAME)
    for image_id, given in reversed(outputs.items()):
        (first if image_id % 2 else second).process([{"image_id": image_id}], [given])
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [data, second._records])
    for task, values in first.evaluate().items():
        np.testing.assert_equal(values, expected[task])  # exactly, with equal scores in either half
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert second.evaluate() == {}


def test_choice_of_evaluators(register, tmp_path, tiny_coco):
    cfg = get_cfg()
    add_dvis_config(cfg)
    register(entry("a", (block(0, 0, 4, 4), 0)))
    MetadataCatalog.get(NAME).evaluator_type = "pascal_instance"
    evaluator = build_evaluators(cfg, NAME, str(tmp_path))
    evaluator.reset()
    evaluator.process([{"image_id": "a"}], [output((block(0, 0, 4, 4), 0.9, 0))])
    results = evaluator.evaluate()
    assert results["ap_r"]["APavg"] == 100
    assert results["contour"]["F1@1"] == pytest.approx(100)
    MetadataCatalog.pop(NAME)
    MetadataCatalog.get(NAME).set(evaluator_type="coco", json_file=str(tiny_coco[0]))
    assert isinstance(build_evaluators(cfg, NAME, str(tmp_path)), COCOEvaluator)
    MetadataCatalog.pop(NAME)
    MetadataCatalog.get(NAME).set(evaluator_type="sem_seg")
    with pytest.raises(NotImplementedError, match="sem_seg"):
        build_evaluators(cfg, NAME, str(tmp_path))
