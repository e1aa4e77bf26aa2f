"""Unseen classes from training to the table: the RPN's masks, the report, and evaluate_unseen."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes

from dvis_d2.engine import Trainer, argument_parser
from experiments import evaluate_unseen
from experiments.comparison import report
from experiments.comparison.costs import load_model
from experiments.comparison.pictures import draw_sheet
from experiments.comparison.rpn_masks import RPNMasks, has_rpn_masks
from experiments.comparison.training import train_and_evaluate
from experiments.unseen import setup_unseen_cfg

ROOT = Path(__file__).parents[2] / "experiments/configs"
CONFIGS = {"dvis": "shapes/shapes_seen.yaml", "mask_rcnn": "comparison/mask_rcnn_shapes_seen.yaml"}


@pytest.fixture
def seen_cfg(tiny_args, tmp_path):
    """A function: the config of `CONFIGS` on the tiny data, of which "green" is seen."""

    def load(model, *options):
        args = [*tiny_args, "DATASETS.SEEN_CLASS_NAMES", "['green']", "OUTPUT_DIR", str(tmp_path / f"{model}_seed1")]
        args[1] = str(ROOT / CONFIGS[model])
        return setup_unseen_cfg(argument_parser().parse_args([*args, "SOLVER.MAX_ITER", "2", *options]))

    return load


def test_rpn_boxes_get_masks_and_keep_their_objectness(seen_cfg):
    torch.manual_seed(0)
    model = Trainer.build_model(seen_cfg("mask_rcnn")).eval()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    inputs = [{"image": image, "height": 96, "width": 128}, {"image": image}]
    outputs = RPNMasks(model, max_boxes=7)(inputs)
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features)
    for output, given, (height, width) in zip(outputs, proposals, [(96, 128), (64, 64)], strict=True):
        found = output["instances"]
        assert len(found) == 7 < len(given)
        assert found.pred_masks.shape == (7, height, width) and found.pred_masks.dtype == torch.bool
        assert torch.equal(found.scores, given.objectness_logits[:7].sigmoid())
        boxes = Boxes(given.proposal_boxes.tensor[:7].clone())
        boxes.scale(width / 64, height / 64)
        assert torch.allclose(found.pred_boxes.tensor, boxes.tensor)
        assert found.pred_classes.eq(0).all()
        assert {v >= w for v, w in zip(found.scores[:-1].tolist(), found.scores[1:].tolist(), strict=True)} == {True}


def test_models_whose_masks_need_a_class_have_no_rpn_masks(seen_cfg):
    assert has_rpn_masks(seen_cfg("mask_rcnn")) and not has_rpn_masks(seen_cfg("dvis"))
    classes = ["DATASETS.SEEN_CLASS_NAMES", "[]", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"]
    assert has_rpn_masks(seen_cfg("mask_rcnn", *classes, "True"))  # of two classes
    assert not has_rpn_masks(seen_cfg("mask_rcnn", *classes, "False"))


def finished(folder, model, **tasks):
    (folder / f"{model}_seed1").mkdir()
    content = {"segm": {"AP": 50.0}, "subsets": {}, "subset_sizes": {}, "train_seconds": 600.0, "images_seen": 800}
    (folder / f"{model}_seed1" / "result.json").write_text(json.dumps(content | tasks))


def test_the_report_has_a_row_for_each_kind_of_mask(tmp_path, table_rows):
    (tmp_path / "plan.json").write_text(json.dumps({"minutes": 10, "configs": CONFIGS}))
    finished(tmp_path, "dvis", recall={"unseen/AR@1": 20.0, "seen/AR@1": 30.0})
    rival = {"recall": {"unseen/AR@1": 10.0, "seen/AR@1": 15.0}, "rpn_masks": {"unseen/AR@1": 12.0, "seen/AR@1": 14.0}}
    finished(tmp_path, "mask_rcnn", **rival)
    summary = report.summarize(tmp_path)
    assert summary["models"]["mask_rcnn"]["figures"]["rpn_masks/unseen/AR@1"] == {"mean": 12, "spread": None}
    table = report.format_table(summary, {"dvis": "DVIS", "mask_rcnn": "Mask R-CNN"})
    recall = table_rows(table[table.index("Average recall") :])
    assert "| unseen AR@1 " in table and "| seen AR@1 " in table
    assert recall == {
        "DVIS": ["20.0", "30.0"],
        "Mask R-CNN": ["10.0", "15.0"],
        "Mask R-CNN, RPN + masks": ["12.0", "14.0"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", CONFIGS)
def test_train_evaluate_and_evaluate_again(model, seen_cfg, capsys):
    """Two steps on pictures of a seen and an unseen class, then the finished model by evaluate_unseen."""
    cfg = seen_cfg(model)
    result = train_and_evaluate(cfg)
    assert {"recall", "segm"} <= set(result) and "contour" not in result and result["subset_sizes"] == {}
    assert ("rpn_masks" in result) == (model == "mask_rcnn")
    assert len(result["recall"]) == 10 and all(0 <= value <= 100 for value in result["recall"].values())

    folder = Path(cfg.OUTPUT_DIR)
    (folder / "config.yaml").write_text(cfg.dump())
    options = ["--config-file", str(folder / "config.yaml"), "MODEL.WEIGHTS", str(folder / "model_final.pth")]

    def run(*more):
        evaluate_unseen.main([*more, *options])
        printed = capsys.readouterr().out.strip().splitlines()
        assert any(line.startswith("| detections ") for line in printed)
        return json.loads(printed[-1])

    again = run()
    assert again["dataset"] == "custom_val" and again["seen_classes"] == ["green"]
    assert again["recall"]["detections"] == pytest.approx(result["recall"])
    assert again["recall"].get("RPN + masks") == pytest.approx(result.get("rpn_masks"))
    other = run("--unseen", "green")
    assert other["seen_classes"] == ["pink"]
    for name, value in again["recall"]["detections"].items():
        group, figure = name.split("/")
        assert other["recall"]["detections"][f"{'seen' if group == 'unseen' else 'unseen'}/{figure}"] == value

    sheet = draw_sheet(cfg, {"model": load_model(cfg)}, num_images=1, score_threshold=0.0)
    assert sheet.shape[1] > 3 * 300


def test_own_json_of_other_classes_leaves_the_model_as_it_is(trained, tiny_coco, tmp_path, last_json):
    """A model of two classes on data of three."""
    data = json.loads(tiny_coco[0].read_text())
    data["categories"].append({"id": 9, "name": "gray"})
    data["annotations"][0]["category_id"] = 9
    (tmp_path / "three.json").write_text(json.dumps(data))
    arguments = ["--json", str(tmp_path / "three.json"), "--images", str(tiny_coco[1])]
    evaluate_unseen.main([*arguments, "--unseen", "gray", "--unseen", "pink", *trained])
    result = last_json()
    assert result["seen_classes"] == ["green"] and None not in result["recall"]["detections"].values()


def test_what_is_unseen_must_be_said():
    with pytest.raises(SystemExit, match="--unseen"):
        evaluate_unseen.main(["--config-file", str(ROOT.parents[1] / "configs/shapes/shapes.yaml")])
