import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, coco_evaluation, verify_results
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.engine import Trainer
from dvis_d2.evaluation import DVISCOCOEvaluator

NAME = "tiny_coco_test-dev"


class Answers(torch.nn.Module):
    """Finds every object of a COCO JSON, except for the upper left quarter of its box."""

    def __init__(self, json_file):
        super().__init__()
        self.coco = COCO(json_file)
        self.classes = {category: k for k, category in enumerate(sorted(self.coco.getCatIds()))}

    def forward(self, inputs):
        return [{"instances": self.find(x["image_id"], (x["height"], x["width"]))} for x in inputs]

    def find(self, image_id, size):
        annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=[image_id]))
        masks = np.array([self.coco.annToMask(a) for a in annotations], dtype=bool)
        for mask, annotation in zip(masks, annotations, strict=True):
            x, y, w, h = annotation["bbox"]
            mask[y : y + h // 2, x : x + w // 2] = False
        return Instances(
            size,
            pred_masks=torch.from_numpy(masks),
            pred_boxes=Boxes(torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in annotations)])),
            scores=torch.full((len(annotations),), 0.75),
            pred_classes=torch.tensor([self.classes[a["category_id"]] for a in annotations]),
        )


@pytest.fixture
def secret(tiny_coco):
    """The data set without its annotations, as image_info_test-dev2017.json is; and the JSON that has them."""
    path, folder = tiny_coco
    data = json.loads(path.read_text())
    del data["annotations"]
    public = path.with_name("image_info.json")
    public.write_text(json.dumps(data))
    register_coco_instances(NAME, {}, str(public), str(folder))
    yield str(path)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_a_set_without_annotations_gives_the_servers_file_and_no_results(secret, tiny_cfg):
    tiny_cfg.DATASETS.TEST = (NAME,)
    model = Answers(secret)
    results = Trainer.test(tiny_cfg, model)
    assert results == {}
    assert verify_results(tiny_cfg, results)  # what train_net.py does next

    path = f"{tiny_cfg.OUTPUT_DIR}/inference/coco_segm_results.json"
    with open(path) as file:
        entries = json.load(file)
    assert len(entries) == 12
    for entry in entries:
        assert set(entry) == {"image_id", "category_id", "segmentation", "score"}
        assert entry["category_id"] in {3, 7}  # the data set's, with gaps
        assert entry["segmentation"]["size"] == [64, 64] and isinstance(entry["segmentation"]["counts"], str)
        found = model.find(entry["image_id"], (64, 64))
        rows = [k for k, c in enumerate(found.pred_classes.tolist()) if {0: 3, 1: 7}[c] == entry["category_id"]]
        assert (mask_util.decode(entry["segmentation"]) == found.pred_masks[rows[0]].numpy()).all()
        assert entry["score"] == 0.75

    # What the server does with it: areas are those of the masks, not of boxes.
    submission = model.coco.loadRes(path)
    assert all(a["area"] == mask_util.area(a["segmentation"]) for a in submission.anns.values())
    evaluation = COCOeval(model.coco, submission, "segm")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    assert evaluation.stats[1] == 1 and evaluation.stats[0] < 1  # found, but a quarter is missing


def test_a_set_with_annotations_is_evaluated_and_gives_no_such_file(tiny_cfg, tiny_coco, tmp_path):
    results = Trainer.test(tiny_cfg, Answers(str(tiny_coco[0])))
    assert results["segm"]["AP50"] == pytest.approx(100)
    assert (tmp_path / "output/inference/coco_instances_results.json").exists()
    assert not (tmp_path / "output/inference/coco_segm_results.json").exists()


def crowded(answers, rng):
    """The answers behind 120 others of one class, which are noise and share a few scores."""
    masks = rng.random((120, 64, 64)) < 0.02
    boxes = torch.from_numpy(rng.integers(0, 30, (120, 4)) + [0, 0, 31, 31]).float()
    others = Instances(
        (64, 64),
        pred_masks=torch.from_numpy(masks),
        pred_boxes=Boxes(boxes),
        scores=torch.from_numpy(np.round(rng.uniform(0.8, 1, 120), 1)).float(),
        pred_classes=torch.zeros(120, dtype=torch.int64),
    )
    return Instances.cat([others, answers])


@pytest.mark.parametrize("max_dets", [100, 200])
def test_results_are_those_of_detectron2(tiny_cfg, tiny_coco, max_dets, tmp_path):
    model, rng = Answers(str(tiny_coco[0])), np.random.default_rng(0)
    found = {image_id: {"instances": crowded(model.find(image_id, (64, 64)), rng)} for image_id in range(1, 7)}
    results = {}
    for kind in (COCOEvaluator, DVISCOCOEvaluator):
        evaluator = kind("custom_val", ("bbox", "segm"), max_dets_per_image=max_dets, output_dir=str(tmp_path))
        evaluator.reset()
        evaluator.process([{"image_id": image_id} for image_id in found], found.values())
        results[kind] = evaluator.evaluate()
    expected, ours = results.values()
    assert expected["segm"]["AP"] > 0 and expected["segm"].keys() >= {"APs", "APl", "AP-green", "AP-pink"}
    for task, values in expected.items():
        np.testing.assert_allclose(list(ours[task].values()), list(values.values()), rtol=1e-14)
    # all green objects are behind a hundred others
    assert (ours["segm"]["AP-green"] == 0) == (max_dets == 100)
    assert coco_evaluation.COCOevalMaxDets.__module__ == coco_evaluation.__name__  # Detectron2 has its own again


def test_coco_sets_of_the_documents_are_registered():
    for name in ("coco_2017_val", "coco_2014_minival", "coco_2017_test-dev"):
        assert name in DatasetCatalog and MetadataCatalog.get(name).evaluator_type == "coco"


def test_all_detections_count_and_masks_may_be_inside_their_boxes(tiny_cfg, tiny_coco, tmp_path):
    model, rng = Answers(str(tiny_coco[0])), np.random.default_rng(0)
    found = {image_id: crowded(model.find(image_id, (64, 64)), rng) for image_id in range(1, 7)}
    results = []
    for masks_as, limit in ((lambda masks: masks, 122), (CroppedMasks.from_masks, None)):
        evaluator = DVISCOCOEvaluator(
            "custom_val", ("bbox", "segm"), max_dets_per_image=limit, output_dir=str(tmp_path)
        )
        evaluator.reset()
        for image_id, instances in found.items():
            given = Instances((64, 64), **instances.get_fields() | {"pred_masks": masks_as(instances.pred_masks)})
            evaluator.process([{"image_id": image_id}], [{"instances": given}])
        results.append(evaluator.evaluate())
    assert results[0]["segm"]["AP-green"] > 0
    for task, values in results[0].items():
        np.testing.assert_array_equal(list(results[1][task].values()), list(values.values()))
