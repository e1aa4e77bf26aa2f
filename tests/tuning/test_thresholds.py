import logging
import os

import pytest
import torch
import yaml

from dvis_d2.checkpoint import checkpoint_info
from dvis_d2.engine import argument_parser, setup_cfg
from dvis_d2.engine.trainer import Trainer
from dvis_d2.tuning import apply_thresholds, current_thresholds, merge_tuned_thresholds, write_thresholds
from dvis_d2.tuning.thresholds import FILE_NAME, GROUPING_KEYS, HEAD_KEYS

ALPHA, BANDWIDTHS = "MODEL.DVIS_ROI_HEADS.ALPHA", "MODEL.MEAN_SHIFT.BANDWIDTHS"
NMS = "MODEL.ROI_HEADS.NMS_THRESH_TEST"
TUNED = {ALPHA: 0.125, BANDWIDTHS: [0.33], NMS: 0.7}


@pytest.fixture
def weights(tmp_path):
    """Path of a weights file with tuned thresholds beside it."""
    path = tmp_path / "model_final.pth"
    torch.save({"model": {}, "dvis": checkpoint_info(setup(inference=False))}, path)
    write_thresholds(str(tmp_path / FILE_NAME), TUNED, comment="two\nlines")
    return str(path)


@pytest.fixture
def log(caplog):
    """What the module logs, whether or not its loggers propagate to the root."""
    logger = logging.getLogger("dvis_d2.tuning.thresholds")
    logger.addHandler(caplog.handler)
    caplog.set_level("INFO", logger=logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)


def setup(*opts, inference=True):
    return setup_cfg(argument_parser().parse_args(list(opts)), inference=inference)


def test_the_file_is_a_partial_config(weights):
    with open(os.path.join(os.path.dirname(weights), FILE_NAME)) as f:
        text = f.read()
    assert text.startswith("# two\n# lines\n")
    assert yaml.safe_load(text)["MODEL"]["MEAN_SHIFT"] == {"BANDWIDTHS": [0.33]}
    cfg = setup(inference=False).clone()
    cfg.defrost()
    cfg.merge_from_file(os.path.join(os.path.dirname(weights), FILE_NAME))
    assert cfg.MODEL.DVIS_ROI_HEADS.ALPHA == 0.125


def test_inference_takes_what_the_command_line_does_not_set(weights):
    default = setup()
    cfg = setup("MODEL.WEIGHTS", weights, ALPHA, "0.75")
    assert cfg.MODEL.DVIS_ROI_HEADS.ALPHA == 0.75
    assert cfg.MODEL.MEAN_SHIFT.BANDWIDTHS == [0.33]
    assert cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST == 0.7
    assert cfg.MODEL.MEAN_SHIFT.MIN_PART_RATIO == default.MODEL.MEAN_SHIFT.MIN_PART_RATIO


def test_a_value_that_is_named_like_a_key_does_not_override(weights):
    assert setup("MODEL.WEIGHTS", weights, "OUTPUT_DIR", ALPHA).MODEL.DVIS_ROI_HEADS.ALPHA == 0.125


def test_training_leaves_the_config_alone(weights):
    assert current_thresholds(setup("MODEL.WEIGHTS", weights, inference=False)) == current_thresholds(setup())


@pytest.mark.parametrize("path", ["", "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "nowhere/model.pth"])
def test_nothing_is_taken_without_a_file_beside_local_weights(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = setup().clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = path
    assert merge_tuned_thresholds(cfg) == {}


def test_what_was_taken_is_logged_with_its_file(weights, log):
    setup("MODEL.WEIGHTS", weights, ALPHA, "0.75")
    message = log.messages[-1]
    assert FILE_NAME in message and f"{BANDWIDTHS} [0.33]" in message
    assert f"command line: {ALPHA})" in message


def test_thresholds_older_than_the_weights_are_taken_with_a_warning(weights, log):
    os.utime(os.path.join(os.path.dirname(weights), FILE_NAME), (0, 0))
    assert setup("MODEL.WEIGHTS", weights).MODEL.DVIS_ROI_HEADS.ALPHA == 0.125
    assert "older" in log.text


@pytest.mark.parametrize(
    "thresholds, named",
    [
        ({"SOLVER.BASE_LR": 1.0}, "SOLVER.BASE_LR"),
        ({"MODEL.DVIS_ROI_HEADS.SCORE_FUSION": "product"}, "SCORE_FUSION"),  # of version 0.1.0
        ({"MODEL.DVIS_ROI_HEADS.MASK_SOURCE": "fused"}, "'fused'"),  # of version 0.1.0
        ({"MODEL.MEAN_SHIFT.READINGS": ["levels", "merged"]}, "'merged'"),  # of version 0.1.0
        ({ALPHA: "much"}, "ALPHA"),
    ],
    ids=["not a threshold", "gone", "no such source", "no such candidates", "wrong type"],
)
def test_an_unusable_file_is_named(weights, thresholds, named):
    path = os.path.join(os.path.dirname(weights), FILE_NAME)
    write_thresholds(path, thresholds)
    with pytest.raises(ValueError, match=named) as error:
        setup("MODEL.WEIGHTS", weights)
    assert path in str(error.value) and len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    "text",
    [
        "MODEL: &a {MEAN_SHIFT: *a}",
        "MODEL: {MEAN_SHIFT: {BANDWIDTHS: &a [*a]}}",
        "0.5",
        "[1, 2]",
        "MODEL: {DVIS_ROI_HEADS: {ALPHA: .nan}}",
        "MODEL: {ROI_HEADS: {SCORE_THRESH_TEST: 1.5}}",
        "MODEL: {ROI_HEADS: {NMS_THRESH_TEST: -0.1}}",
        "MODEL: {MEAN_SHIFT: {BANDWIDTHS: [.inf]}}",
        "MODEL: {MEAN_SHIFT: {STEP_THRESHOLD: [[0.1]]}}",
        "MODEL: !!python/object/apply:os.system [exit 3]",
        "{" * 3000,
    ],
)
def test_a_value_that_cannot_be_is_refused_at_once(weights, text):
    path = os.path.join(os.path.dirname(weights), FILE_NAME)
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(ValueError, match=FILE_NAME) as error:
        setup("MODEL.WEIGHTS", weights)
    assert len(str(error.value).splitlines()) == 2


def test_thresholds_of_the_command_line_are_checked_too():
    with pytest.raises(ValueError, match="SCORE_THRESH_TEST is 50.0; it has to be between 0 and 1"):
        setup("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "50.0")


def test_keys_of_version_0_1_0_are_read_by_their_new_names(weights):
    path = os.path.join(os.path.dirname(weights), FILE_NAME)
    write_thresholds(
        path,
        {
            "MODEL.MEAN_SHIFT.READINGS": ["linked"],
            "MODEL.MEAN_SHIFT.LINK_THRESHOLDS": [0.1],
            "MODEL.MEAN_SHIFT.CRUMB_RATIO": 0.2,
        },
    )
    cfg = setup("MODEL.WEIGHTS", weights, "MODEL.MEAN_SHIFT.MIN_PART_RATIO", "0.3")
    assert cfg.MODEL.MEAN_SHIFT.CANDIDATES == ["regions"]
    assert cfg.MODEL.MEAN_SHIFT.MIN_PART_RATIO == 0.3  # the command line still comes first


def test_a_model_given_thresholds_equals_one_built_with_them(tiny_cfg):
    values = {
        "MODEL.MEAN_SHIFT.BANDWIDTHS": [0.31],
        "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD": 0.41,
        "MODEL.MEAN_SHIFT.CANDIDATES": ["regions"],
        "MODEL.MEAN_SHIFT.STEP_THRESHOLD": 0.11,
        "MODEL.MEAN_SHIFT.MIN_PART_RATIO": 0.12,
        "MODEL.MEAN_SHIFT.NMS_THRESH": 0.71,
        "MODEL.DVIS_ROI_HEADS.ALPHA": 0.13,
        "MODEL.DVIS_ROI_HEADS.MASK_SOURCE": "head",
        "MODEL.DVIS_ROI_HEADS.NMS": "matrix",
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.14,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.15,
    }
    assert values.keys() == GROUPING_KEYS.keys() | HEAD_KEYS.keys()
    given = Trainer.build_model(tiny_cfg)
    apply_thresholds(given, values)
    for item in values.items():
        tiny_cfg.merge_from_list(list(item))
    assert current_thresholds(tiny_cfg) == values
    built = Trainer.build_model(tiny_cfg)
    for model in (given, built):  # lists and tuples mean the same to the grouping
        grouping = model.proposal_generator.grouping
        grouping |= {name: tuple(grouping[name]) for name in ("bandwidths", "candidates")}
    assert given.proposal_generator.grouping == built.proposal_generator.grouping
    for name in HEAD_KEYS.values():
        assert getattr(given.roi_heads, name) == getattr(built.roi_heads, name)
