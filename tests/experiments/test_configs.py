"""The configs that only reproduce the paper or take part in the comparison."""

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from dvis_d2.engine import argument_parser
from dvis_d2.modeling import MeanShiftProposer
from experiments.comparison.training import ComparisonTrainer
from experiments.unseen import seen_classes, setup_unseen_cfg

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments/configs"
CONFIGS = sorted(p for p in FOLDER.rglob("*.yaml") if not p.name.startswith("Base"))
QUICK = ("shapes/shapes_seen.yaml", "comparison/mask_rcnn_shapes.yaml")
SLOW = ("pascal/voc_paper.yaml", "pascal/voc_authors.yaml", "comparison/mask_rcnn_nuclei.yaml")


def name_of(path):
    return str(path.relative_to(FOLDER))


def load(path, *arguments):
    return setup_unseen_cfg(argument_parser().parse_args(["--config-file", str(path), *arguments]))


@pytest.fixture
def own_data(tiny_coco):
    """Arguments that put small COCO-format images in the place of any data set."""
    json_file, folder = map(str, tiny_coco)
    data = ["--train-json", json_file, "--train-images", folder, "--val-json", json_file, "--val-images", folder]
    return [*data, "MODEL.WEIGHTS", ""]


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_config_builds(path, own_data):
    """On the meta device, where no weight takes memory or time."""
    seen = ["DATASETS.SEEN_CLASS_NAMES", "['green']"] if "seen" in path.name else []
    with torch.device("meta"):
        model = build_model(load(path, *own_data, *seen, "MODEL.DEVICE", "meta"))
    assert "mask_rcnn" in path.name or model.proposal_generator.stride == 4 or "shapes" in path.name


@pytest.mark.parametrize("path", [p for p in CONFIGS if not {"nuclei", "photos"} & set(p.stem.split("_"))], ids=name_of)
def test_every_config_names_data_sets_that_exist(path):
    cfg = load(path)
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    assert all(name in DatasetCatalog for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_configs_train_a_step_and_evaluate(name, own_data, tmp_path, monkeypatch):
    """With random weights; sizes and layers are the config's own."""
    monkeypatch.chdir(ROOT)  # relative paths in configs start here
    seen = ["DATASETS.SEEN_CLASS_NAMES", "['green']"] if "seen" in name else []
    options = "MODEL.DEVICE cpu SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 1 DATALOADER.NUM_WORKERS 0".split()
    options += ["INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "OUTPUT_DIR", str(tmp_path)]
    cfg = load(FOLDER / name, *own_data, *seen, *options)
    model = ComparisonTrainer.build_model(cfg).train()
    optimizer = ComparisonTrainer.build_optimizer(cfg, model)
    with EventStorage(0):
        loss = sum(model(next(iter(ComparisonTrainer.build_train_loader(cfg)))).values())
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    results = ComparisonTrainer.test(cfg, model.eval())
    assert {"AP", "AP50", "AP75"} <= set(results["segm"]) and bool(seen_classes(cfg)) == ("recall" in results)


def test_every_leaf_writes_to_a_folder_of_its_own():
    folders = {load(path).OUTPUT_DIR for path in CONFIGS if not {"nuclei", "photos"} & set(path.stem.split("_"))}
    assert len(folders) == len(CONFIGS) - 2 > 15


@pytest.mark.parametrize("depth", [50, 101])
def test_tables_3_to_5_on_coco(depth):
    default, coco = ROOT / f"configs/dvis_R{depth}.yaml", FOLDER / "coco"
    for path, size in [
        (default, 700),
        (coco / f"dvis_R{depth}_paper.yaml", 700),
        (coco / f"dvis_R{depth}_550.yaml", 550),
    ]:
        cfg = load(path)
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
    cfg = load(FOLDER / f"{name}.yaml")
    criterion = MeanShiftProposer.from_config(cfg, {"aspp": ShapeSpec(channels=1, stride=8)})["criterion"]
    assert [term for term, weight in criterion.weights.items() if weight] == [f"loss_{term}" for term in terms.split()]
    # pairs count up to half the window, and no farther
    for distance, counts in ((window // 2, True), (window // 2 + 1, False)):
        ids = torch.zeros(1, 4, distance + 1, dtype=torch.int64)
        ids[..., 0], ids[..., -1] = 1, 2
        assert (criterion(torch.full(ids.shape, 2.0), ids)["loss_pi"] > 0) == counts


@pytest.mark.parametrize("setting", ["paper", "authors"])
@pytest.mark.parametrize(
    "default, folder", [("dvis_R50", "coco"), ("dvis_R101", "coco"), ("pascal/voc", ""), ("pascal/sbd", "")]
)
def test_settings_differ_only_in_loss_grouping_heads_and_folder(default, folder, setting):
    cfgs = []
    for path in (ROOT / f"configs/{default}.yaml", FOLDER / folder / f"{default}_{setting}.yaml"):
        cfg = load(path).clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = cfg.MODEL.VARIATIONAL_LOSS = cfg.MODEL.MEAN_SHIFT = cfg.MODEL.DVIS_ROI_HEADS = ""
        if setting == "authors":  # wider heads
            cfg.MODEL.LABEL_MAP_HEAD.CONV_DIM = cfg.MODEL.ROI_BOX_HEAD = cfg.MODEL.ROI_MASK_HEAD = ""
        cfgs.append(cfg)
    assert cfgs[0] == cfgs[1]
