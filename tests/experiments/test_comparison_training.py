"""The conditions and the clock of compare."""

import argparse
import time
from pathlib import Path

import pytest
import torch

from experiments.comparison import conditions
from experiments.comparison.training import ComparisonTrainer, TimeIsUp, measure_seconds_per_iteration
from experiments.unseen import setup_unseen_cfg

ROOT = Path(__file__).parents[2]
DATA_SETS = ("shapes", "shapes_easy", "shapes_seen", "nuclei")


def load(path, *opts):
    return setup_unseen_cfg(argparse.Namespace(config_file=str(ROOT / path), opts=list(opts)))


def pair(name, *opts):
    folders = {"nuclei": "configs/nuclei", "shapes_seen": "experiments/configs/shapes"}
    ours = f"{folders.get(name, 'configs/shapes')}/{name}.yaml"
    paths = {"DVIS": ours, "Mask R-CNN": f"experiments/configs/comparison/mask_rcnn_{name}.yaml"}
    return {title: load(path, *opts) for title, path in paths.items()}


@pytest.fixture
def custom(tiny_coco):
    """Options that put the tiny data in the place of the nuclei."""
    json_file, folder = map(str, tiny_coco)
    names = ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES")
    return [
        x
        for name, value in zip(names, (json_file, folder) * 2, strict=True)
        for x in (f"DATASETS.CUSTOM.{name}", value)
    ]


@pytest.mark.parametrize("name", DATA_SETS)
def test_both_configs_have_the_same_data_schedule_and_backbone(name, custom):
    cfgs = pair(name, *(custom if name == "nuclei" else ()))
    conditions.check_same_conditions(cfgs)
    rival = cfgs["Mask R-CNN"]
    assert rival.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    # Detectron2's own setting, not what DVIS's heads want
    assert (rival.MODEL.ROI_HEADS.IOU_THRESHOLDS, rival.MODEL.ROI_HEADS.IOU_LABELS) == ([0.5], [0, 1])


def test_the_backbones_are_the_same_network():
    ours, theirs = (ComparisonTrainer.build_model(cfg).backbone for cfg in pair("shapes").values())
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.bottom_up.state_dict().items()} == {
        name.removeprefix("bottom_up."): shape for name, shape in shapes.items() if name.startswith("bottom_up.")
    }
    assert all(shapes[name] == value.shape for name, value in ours.state_dict().items())
    assert set(theirs.output_shape()) == {"p2", "p3", "p4", "p5", "p6"}


@pytest.mark.parametrize(
    "key, value",
    [
        ("INPUT.RANDOM_FLIP", "none"),
        ("SOLVER.AMP.ENABLED", False),
        ("SOLVER.IMS_PER_BATCH", 4),
        ("DATASETS.TRAIN", ("shapes_easy_train",)),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    ],
)
def test_an_unfair_difference_is_named(key, value):
    cfgs = pair("shapes")
    changed = cfgs["Mask R-CNN"].clone()
    changed.defrost()
    changed.merge_from_list([key, value])
    with pytest.raises(ValueError, match=key):
        conditions.check_same_conditions({"DVIS": cfgs["DVIS"], "Mask R-CNN": changed})


def test_the_learning_rate_may_differ():
    cfgs = pair("shapes")
    changed = cfgs["Mask R-CNN"].clone()
    changed.defrost()
    changed.SOLVER.BASE_LR = 0.5
    conditions.check_same_conditions({"DVIS": cfgs["DVIS"], "Mask R-CNN": changed})


def test_the_clock_goes_on_after_a_stop_and_leaves_out_what_the_checkpoint_lacks(tiny_cfg):
    tiny_cfg.DATASETS.TEST = ()
    first = ComparisonTrainer(tiny_cfg)
    first.resume_or_load(resume=False)
    first.train()
    checkpoint = torch.load(f"{tiny_cfg.OUTPUT_DIR}/model_0000001.pth", weights_only=False)
    stored = checkpoint["trainer"]["hooks"]["TrainingClock"]["seconds"]
    assert 0 < stored < first.clock.seconds
    second = ComparisonTrainer(tiny_cfg)
    second.resume_or_load(resume=True)
    assert second.clock.seconds == pytest.approx(first.clock.seconds)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # of steps that do nothing
def test_measurement_counts_a_miniature_of_the_schedule(tiny_cfg, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ComparisonTrainer,
        "run_step",
        lambda self: (seen.append((self.max_iter, self.iter)), time.sleep(0.01)),
    )
    tiny_cfg.SOLVER.MAX_ITER = 10**6
    result = measure_seconds_per_iteration(tiny_cfg, 1.0)
    assert result["seconds_per_iteration"] >= 0.01
    (guess, _), (miniature, last) = seen[0], seen[-1]
    assert guess == 10**6 and 2 <= miniature <= 80
    assert result["iterations"] <= last + 1


def test_time_is_up_is_not_taken_for_a_fault():
    assert not issubclass(TimeIsUp, Exception)
