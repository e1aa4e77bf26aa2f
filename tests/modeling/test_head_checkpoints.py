"""Checkpoints and configs from before, with and without classes; and class-agnostic models as a whole."""

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from dvis_d2.config import add_dvis_config
from dvis_d2.data import DVISDatasetMapper
from dvis_d2.engine import Trainer
from dvis_d2.inference.test_time_augmentation import DVISWithTTA

CLASS_LAYER = {"roi_heads.cls_score.weight", "roi_heads.cls_score.bias"}


@pytest.fixture
def class_agnostic_cfg(tiny_cfg):
    tiny_cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = True
    tiny_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return tiny_cfg


@pytest.fixture
def log(caplog):
    """What fvcore's checkpointer logs, whether or not its loggers propagate to the root."""
    logger = logging.getLogger("fvcore.common.checkpoint")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def store(cfg, path):
    torch.manual_seed(1)
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, path)
    return model.state_dict()


def load(cfg, path):
    torch.manual_seed(2)
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(path))
    return model.state_dict()


def test_weights_with_classes_load_into_a_class_agnostic_model(tiny_cfg, tmp_path, log):
    stored = store(tiny_cfg, tmp_path / "model.pth")
    tiny_cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = True
    loaded = load(tiny_cfg, tmp_path / "model.pth")
    assert stored.keys() - loaded.keys() == CLASS_LAYER
    assert all(torch.equal(stored[name], value) for name, value in loaded.items())
    assert "not used by the model" in log.text and "roi_heads.cls_score" in log.text


def test_class_agnostic_weights_load_into_a_model_with_classes_whose_new_layer_is_named(
    class_agnostic_cfg, tmp_path, log
):
    stored = store(class_agnostic_cfg, tmp_path / "model.pth")
    class_agnostic_cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = False
    loaded = load(class_agnostic_cfg, tmp_path / "model.pth")
    assert loaded.keys() - stored.keys() == CLASS_LAYER
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())
    assert "not found in the checkpoint" in log.text and "roi_heads.cls_score" in log.text


def test_weights_of_another_number_of_classes_lose_the_class_layer_and_say_so(tiny_cfg, tmp_path, log):
    stored = store(tiny_cfg, tmp_path / "model.pth")
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES += 1
    loaded = load(tiny_cfg, tmp_path / "model.pth")
    assert {name for name in loaded if not torch.equal(stored[name], loaded[name])} == CLASS_LAYER - {
        name for name in CLASS_LAYER if stored[name].shape == loaded[name].shape
    }
    assert "Skip loading parameter 'roi_heads.cls_score.weight'" in log.text


def test_names_of_the_heads_weights_are_those_of_older_checkpoints(tiny_cfg):
    names = {name.rpartition(".")[0] for name in build_model(tiny_cfg).roi_heads.state_dict()}
    assert names == {
        *("box_head.conv1", "box_head.conv2", "box_head.fc1", "cls_score", "iou_pred"),
        *("mask_head.mask_fcn1", "mask_head.mask_fcn2", "mask_head.deconv", "mask_head.predictor"),
    }


def test_a_config_stored_before_these_options_means_their_defaults(tiny_cfg, tmp_path):
    from detectron2.config import get_cfg

    older = tiny_cfg.clone()
    for key in ("CLASS_AGNOSTIC", "NMS"):
        del older.MODEL.DVIS_ROI_HEADS[key]
    (tmp_path / "config.yaml").write_text(older.dump())
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    heads = build_model(cfg).roi_heads
    assert (heads.class_agnostic, heads.nms) == (False, "hard")


@pytest.mark.parametrize("key", ["NMS", "MASK_SOURCE"])
def test_unknown_choices_are_named_when_the_model_is_built(tiny_cfg, key):
    tiny_cfg.MODEL.DVIS_ROI_HEADS[key] = "best"
    with pytest.raises(ValueError, match=f"MODEL.DVIS_ROI_HEADS.{key} is 'best'; it must be one of"):
        build_model(tiny_cfg)


def test_class_agnostic_model_trains_without_a_class_loss_before_and_after_the_heads_join(class_agnostic_cfg):
    class_agnostic_cfg.SOLVER.MAX_ITER, class_agnostic_cfg.MODEL.DVIS_ROI_HEADS.START = 4, 0.5
    model = Trainer.build_model(class_agnostic_cfg).train()
    batch = next(iter(Trainer.build_train_loader(class_agnostic_cfg)))
    assert {int(c) for x in batch for c in x["instances"].gt_classes} == {0, 1}
    keys = []
    for iteration in (1, 2):
        model.zero_grad()
        with EventStorage(iteration):
            losses = model(batch)
        keys.append(set(losses))
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.roi_heads.parameters())
    assert losses["loss_mask"] > 0
    assert keys[0] == keys[1] == {"loss_binary", "loss_pi", "loss_ms", "loss_quant", "loss_iou", "loss_mask"}


def test_class_agnostic_inference_and_test_time_augmentation(class_agnostic_cfg):
    cfg = class_agnostic_cfg
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.FLIP = (64,), True
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    # so that an untrained network finds something
    model.proposal_generator.label_head.predictor.weight.data.abs_().mul_(100)
    stored = DatasetCatalog.get("custom_val")[0]
    plain = model([DVISDatasetMapper(cfg, is_train=False)(dict(stored))])[0]["instances"]
    as_stored = DVISDatasetMapper(is_train=False, augmentations=[], image_format="BGR")
    augmented = DVISWithTTA(cfg, model)([as_stored(dict(stored))])[0]["instances"]
    for result in (plain, augmented):
        assert len(result) > 0 and not result.pred_classes.any()
        assert (result.scores[:-1] >= result.scores[1:]).all() and 0 <= result.scores.min() <= result.scores.max() <= 1
