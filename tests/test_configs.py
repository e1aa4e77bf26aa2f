from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from dvis_d2.engine import Trainer, argument_parser, setup_cfg
from dvis_d2.modeling import MeanShiftProposer

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if not p.name.startswith("Base"))


def name_of(path):
    return str(path.relative_to(ROOT / "configs"))


def load(name, *options):
    args = argument_parser().parse_args(["--config-file", str(ROOT / "configs" / name), *options])
    return setup_cfg(args)


def is_heavy(path):
    """Large networks that step as another, quicker config does: always built, but stepped by `make test-slow` only."""
    name = name_of(path)
    repeats = path.parent.name in ("pascal", "ablations", "lvis", "cityscapes") and name != "pascal/voc_paper.yaml"
    return repeats or "R101" in name or "_550" in name


HEAVY = [p for p in CONFIGS if is_heavy(p)]
STEPPED = [pytest.param(p, marks=pytest.mark.slow if p in HEAVY else (), id=name_of(p)) for p in CONFIGS]


@pytest.mark.parametrize("path", HEAVY, ids=name_of)
def test_heavy_configs_build(path):
    """On the meta device, where no weight takes memory or time."""
    with torch.device("meta"):
        model = build_model(load(name_of(path), "MODEL.DEVICE", "meta"))
    assert model.proposal_generator.stride == 4


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_config_names_data_sets_of_its_classes(path, monkeypatch):
    monkeypatch.setattr("dvis_d2.engine.setup.register_from_config", lambda cfg: None)  # own data bring their classes
    cfg = load(name_of(path))
    if cfg.DATASETS.CUSTOM.TRAIN_JSON:
        return
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert name in DatasetCatalog
        classes = MetadataCatalog.get(name).thing_classes
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == (1 if cfg.DATASETS.CLASS_AGNOSTIC else len(classes))
        assert set(cfg.DATASETS.SEEN_CLASSES) < set(classes)


@pytest.mark.parametrize("path", STEPPED)
def test_every_config_trains_a_step_and_evaluates(path, tiny_coco, tmp_path, monkeypatch):
    """With random weights on small COCO-format images; sizes and layers are the config's own."""
    monkeypatch.chdir(ROOT)  # relative paths in configs start here
    json_file, folder = map(str, tiny_coco)
    options = "MODEL.WEIGHTS '' MODEL.DEVICE cpu SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 1 DATALOADER.NUM_WORKERS 0"
    options = [x.strip("'") for x in options.split()] + ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"]
    data = ["--train-json", json_file, "--train-images", folder, "--val-json", json_file, "--val-images", folder]
    args = argument_parser().parse_args(["--config-file", str(path), *data, *options])
    cfg = setup_cfg(args).clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.SEEN_CLASSES = ["green"] if cfg.DATASETS.SEEN_CLASSES else []
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


def test_every_config_is_named_in_a_document():
    documents = "".join(p.read_text() for p in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    missing = [name_of(p) for p in CONFIGS if str(p.relative_to(ROOT)) not in documents]
    assert not missing


def test_every_leaf_writes_to_a_folder_of_its_own():
    leaves = [p for p in CONFIGS if p.parent.name in ("pascal", "ablations", "coco", "lvis", "cityscapes")]
    assert len({load(name_of(p)).OUTPUT_DIR for p in leaves}) == len(leaves) > 15


@pytest.mark.parametrize("depth", [50, 101])
def test_tables_3_to_5_on_coco(depth):
    for name, size in [(f"dvis_R{depth}", 700), (f"coco/dvis_R{depth}_paper", 700), (f"coco/dvis_R{depth}_550", 550)]:
        cfg = load(f"{name}.yaml")
        assert cfg.MODEL.RESNETS.DEPTH == depth and f"R_{depth}_FPN" in cfg.MODEL.WEIGHTS
        assert cfg.INPUT.MIN_SIZE_TRAIN == (size,) and cfg.INPUT.MIN_SIZE_TEST == size
        assert cfg.MODEL.LABEL_MAP_HEAD.COMMON_STRIDE == 4
        assert cfg.DATASETS.TRAIN == ("coco_2017_train",) and cfg.DATASETS.TEST == ("coco_2017_val",)


@pytest.mark.parametrize(
    "name, window, terms",
    [
        ("pascal/voc_paper", 129, "binary pi ms quant"),
        ("ablations/voc_window_8", 9, "binary pi ms quant"),
        ("ablations/voc_window_16", 17, "binary pi ms quant"),
        ("ablations/voc_window_32", 33, "binary pi ms quant"),
        ("ablations/voc_window_64", 65, "binary pi ms quant"),
        ("ablations/voc_no_ms", 129, "binary pi"),
        ("ablations/voc_no_quantization", 129, "binary pi ms"),
    ],
)
def test_tables_7_and_8_reach_the_loss(name, window, terms):
    cfg = load(f"{name}.yaml")
    criterion = MeanShiftProposer.from_config(cfg, {"aspp": ShapeSpec(channels=1, stride=8)})["criterion"]
    assert [term for term, weight in criterion.weights.items() if weight] == [f"loss_{term}" for term in terms.split()]
    # pairs count up to half the window, and no farther
    for distance, counts in ((window // 2, True), (window // 2 + 1, False)):
        ids = torch.zeros(1, 4, distance + 1, dtype=torch.int64)
        ids[..., 0], ids[..., -1] = 1, 2
        assert (criterion(torch.full(ids.shape, 2.0), ids)["loss_pi"] > 0) == counts


def test_settings_differ_only_in_loss_grouping_heads_and_folder():
    """What docs/paper.md says of "paper", "authors" and the default."""
    for default, folder in (("dvis_R50", "coco"), ("dvis_R101", "coco"), ("pascal/voc", ""), ("pascal/sbd", "")):
        for setting in ("paper", "authors"):
            cfgs = [load(f"{default}.yaml"), load(f"{folder}/{default}_{setting}.yaml".lstrip("/"))]
            for i, cfg in enumerate(cfgs):
                cfgs[i] = cfg = cfg.clone()
                cfg.defrost()
                cfg.OUTPUT_DIR = cfg.MODEL.VARIATIONAL_LOSS = cfg.MODEL.MEAN_SHIFT = cfg.MODEL.DVIS_ROI_HEADS = ""
                if setting == "authors":  # wider heads
                    cfg.MODEL.LABEL_MAP_HEAD.CONV_DIM = cfg.MODEL.ROI_BOX_HEAD = cfg.MODEL.ROI_MASK_HEAD = ""
            assert cfgs[0] == cfgs[1]


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
