"""Unseen classes from training to the table: the RPN's masks, the report, and tools/evaluate_unseen.py."""

import json
import sys
from pathlib import Path

import pytest
import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes

from dvis_d2.engine import Trainer, argument_parser, setup_cfg

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import evaluate_unseen  # noqa: E402
from comparison import report  # noqa: E402
from comparison.costs import load_model  # noqa: E402
from comparison.pictures import draw_sheet  # noqa: E402
from comparison.rpn_masks import RPNMasks, has_rpn_masks  # noqa: E402
from comparison.training import train_and_evaluate  # noqa: E402

CONFIGS = {"dvis": "configs/shapes/shapes_seen.yaml", "mask_rcnn": "configs/comparison/mask_rcnn_shapes_seen.yaml"}


@pytest.fixture
def seen_cfg(tiny_args, tmp_path):
    """A function: the config of `CONFIGS` on the tiny data, of which "green" is seen."""

    def load(model, *options):
        args = [*tiny_args, "DATASETS.SEEN_CLASSES", "['green']", "OUTPUT_DIR", str(tmp_path / f"{model}_seed1")]
        args[1] = str(ROOT / CONFIGS[model])
        return setup_cfg(argument_parser().parse_args([*args, "SOLVER.MAX_ITER", "2", *options]))

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
    options = ["DATASETS.CLASS_AGNOSTIC", "False", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"]
    assert has_rpn_masks(seen_cfg("mask_rcnn", *options, "True"))  # of two classes
    assert not has_rpn_masks(seen_cfg("mask_rcnn", *options, "False"))


def finished(folder, model, **tasks):
    (folder / f"{model}_seed1").mkdir()
    content = {"segm": {"AP": 50.0}, "subsets": {}, "subset_sizes": {}, "train_seconds": 600.0, "images_seen": 800}
    (folder / f"{model}_seed1" / "result.json").write_text(json.dumps(content | tasks))


def test_the_report_has_a_row_for_each_kind_of_mask(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"minutes": 10, "configs": CONFIGS}))
    finished(tmp_path, "dvis", recall={"unseen/AR@1": 20.0, "seen/AR@1": 30.0})
    rival = {"recall": {"unseen/AR@1": 10.0, "seen/AR@1": 15.0}, "rpn_masks": {"unseen/AR@1": 12.0, "seen/AR@1": 14.0}}
    finished(tmp_path, "mask_rcnn", **rival)
    summary = report.summarize(tmp_path)
    assert summary["models"]["mask_rcnn"]["figures"]["rpn_masks/unseen/AR@1"] == {"mean": 12, "spread": None}
    table = report.format_table(summary, {"dvis": "DVIS", "mask_rcnn": "Mask R-CNN"})
    assert table.endswith(
        "| | unseen AR@1 | seen AR@1 |\n|---|---|---|\n| DVIS | 20.0 | 30.0 |\n| Mask R-CNN | 10.0 | 15.0 |\n"
        "| Mask R-CNN, RPN + masks | 12.0 | 14.0 |\n"
    )


@pytest.mark.parametrize("model", CONFIGS)
def test_train_evaluate_and_evaluate_again(model, seen_cfg, tmp_path, monkeypatch, capsys):
    """Two steps on pictures of a seen and an unseen class, then the finished model by tools/evaluate_unseen.py."""
    cfg = seen_cfg(model)
    result = train_and_evaluate(cfg)
    assert {"recall", "segm"} <= set(result) and "contour" not in result and result["subset_sizes"] == {}
    assert ("rpn_masks" in result) == (model == "mask_rcnn")
    assert len(result["recall"]) == 10 and all(0 <= value <= 100 for value in result["recall"].values())

    folder = Path(cfg.OUTPUT_DIR)
    (folder / "config.yaml").write_text(cfg.dump())
    options = ["--config-file", str(folder / "config.yaml"), "MODEL.WEIGHTS", str(folder / "model_final.pth")]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["evaluate_unseen.py", *more, *options])
        evaluate_unseen.main()
        printed = capsys.readouterr().out.strip().splitlines()
        assert any(line.startswith("| detections |") for line in printed)
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


def test_own_json_of_other_classes_leaves_the_model_as_it_is(seen_cfg, tiny_coco, tmp_path, monkeypatch, capsys):
    """A model of two classes on data of three."""
    models = []

    def inference(model, loader, evaluator):
        models.append(model)
        return inference_on_dataset(model, loader, evaluator)

    monkeypatch.setattr(evaluate_unseen, "inference_on_dataset", inference)
    cfg = seen_cfg("dvis", "DATASETS.CLASS_AGNOSTIC", "False", "MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC", "False")
    model = Trainer.build_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    data = json.loads(tiny_coco[0].read_text())
    data["categories"].append({"id": 9, "name": "grey"})
    data["annotations"][0]["category_id"] = 9
    (tmp_path / "three.json").write_text(json.dumps(data))
    argv = ["--config-file", tmp_path / "config.yaml", "--json", tmp_path / "three.json", "--images", tiny_coco[1]]
    argv += ["--unseen", "grey", "--unseen", "pink", "MODEL.WEIGHTS", tmp_path / "model.pth"]
    monkeypatch.setattr(sys, "argv", ["evaluate_unseen.py", *map(str, argv)])
    evaluate_unseen.main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    evaluated = models[0].state_dict()
    assert all(torch.equal(value, evaluated[name]) for name, value in model.state_dict().items())
    assert result["seen_classes"] == ["green"] and None not in result["recall"]["detections"].values()


def test_what_is_unseen_must_be_said(monkeypatch):
    names = ["--config-file", str(ROOT / "configs/shapes/shapes.yaml")]
    monkeypatch.setattr(sys, "argv", ["evaluate_unseen.py", *names])
    with pytest.raises(SystemExit, match="--unseen"):
        evaluate_unseen.main()
