import pytest
import torch

from dvis_d2.data import DatasetError
from dvis_d2.engine import argument_parser, setup_cfg


def setup(*args):
    return setup_cfg(argument_parser().parse_args(list(args)))


def test_device_is_what_the_machine_has_unless_told():
    assert setup().MODEL.DEVICE == ("cuda" if torch.cuda.is_available() else "cpu")
    assert setup("MODEL.DEVICE", "meta").MODEL.DEVICE == "meta"


def test_unknown_key_is_an_error():
    with pytest.raises((KeyError, AssertionError), match="MEAN_SHIFT.BANDWITHS"):
        setup("MODEL.MEAN_SHIFT.BANDWITHS", "[0.9]")


def test_own_data_sets_classes_and_data_sets(tiny_coco):
    json_file, folder = map(str, tiny_coco)
    cfg = setup("--train-json", json_file, "--train-images", folder, "--val-json", json_file, "--val-images", folder)
    assert cfg.DATASETS.TRAIN == ("custom_train",) and cfg.DATASETS.TEST == ("custom_val",)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2


def test_options_win_over_arguments_and_file(tiny_coco):
    json_file, folder = map(str, tiny_coco)
    cfg = setup("--train-json", "nowhere.json", "DATASETS.CUSTOM.TRAIN_JSON", json_file)
    assert cfg.DATASETS.CUSTOM.TRAIN_JSON == json_file


def test_missing_own_data_are_named():
    with pytest.raises((DatasetError, FileNotFoundError), match="nowhere.json"):
        setup("--train-json", "nowhere.json")
