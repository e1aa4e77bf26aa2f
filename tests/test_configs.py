from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from dvis_d2.engine import Trainer, argument_parser, setup_cfg

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if not p.name.startswith("Base"))


def name_of(path):
    return str(path.relative_to(ROOT / "configs"))


def load(name, *options):
    args = argument_parser().parse_args(["--config-file", str(ROOT / "configs" / name), *options])
    return setup_cfg(args)


def is_heavy(path):
    """Large networks that step as another, quicker config does: always built, but stepped by `make test-slow` only."""
    return path.parent.name in ("lvis", "cityscapes") or path.name in (
        "sbd.yaml",
        "dvis_R101.yaml",
        "photos_convnext.yaml",
    )


HEAVY = [p for p in CONFIGS if is_heavy(p)]
STEPPED = [pytest.param(p, marks=pytest.mark.slow if p in HEAVY else (), id=name_of(p)) for p in CONFIGS]


@pytest.mark.parametrize("path", HEAVY, ids=name_of)
def test_heavy_configs_build(path):
    """On the meta device, where no weight takes memory or time."""
    with torch.device("meta"):
        model = build_model(load(name_of(path), "MODEL.DEVICE", "meta"))
    assert model.proposal_generator.stride == (2 if path.parent.name == "photos" else 4)


# own data bring their classes
@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name not in ("nuclei", "photos")], ids=name_of)
def test_every_config_names_data_sets_of_its_classes(path):
    cfg = load(name_of(path))
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert name in DatasetCatalog
        classes = MetadataCatalog.get(name).thing_classes
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == len(classes)


@pytest.mark.parametrize("path", STEPPED)
def test_every_config_trains_a_step_and_evaluates(path, tiny_coco, tmp_path, monkeypatch):
    """With random weights on small COCO-format images; sizes and layers are the config's own."""
    monkeypatch.chdir(ROOT)  # relative paths in configs start here
    json_file, folder = map(str, tiny_coco)
    options = "MODEL.WEIGHTS '' MODEL.DEVICE cpu SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 1 DATALOADER.NUM_WORKERS 0"
    options = [x.strip("'") for x in options.split()] + ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"]
    options += ["MODEL.TIMM.PRETRAINED", "False"]
    data = ["--train-json", json_file, "--train-images", folder, "--val-json", json_file, "--val-images", folder]
    args = argument_parser().parse_args(["--config-file", str(path), *data, *options])
    cfg = setup_cfg(args).clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(tmp_path)
    model = Trainer.build_model(cfg).train()
    optimizer = Trainer.build_optimizer(cfg, model)
    with EventStorage(0):
        losses = model(next(iter(Trainer.build_train_loader(cfg))))
        loss = sum(losses.values())
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    results = Trainer.test(cfg, model)
    assert {"AP", "AP50", "AP75"} <= set(results["segm"])


def test_weights_of_a_detectron2_detector_reach_the_backbone(tmp_path):
    """A checkpoint of Detectron2's own Faster R-CNN, as its model zoo has them, by path."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg

    theirs = get_cfg()
    theirs.MODEL.DEVICE = "cpu"
    theirs.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    theirs.MODEL.RESNETS.OUT_FEATURES = theirs.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    theirs.MODEL.RPN.IN_FEATURES = theirs.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    theirs.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    theirs.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    theirs.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    detector = build_model(theirs)
    path = tmp_path / "detector.pth"
    torch.save({"model": detector.state_dict()}, path)

    cfg = load("dvis_R50.yaml").clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(path))
    source = detector.state_dict()
    loaded = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    assert len(loaded) > 200
    assert all(torch.equal(v, source[k]) for k, v in loaded.items())
