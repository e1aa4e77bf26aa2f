import json
import os

import pytest
import torch
from detectron2.data import DatasetCatalog

from dvis_d2.config import flat
from dvis_d2.data import DatasetError
from dvis_d2.engine import Trainer, argument_parser, launch, missing_arguments, setup_cfg


def test_batch_rate_and_schedule_scale_with_the_processes(tiny_cfg):
    solver = tiny_cfg.SOLVER
    solver.REFERENCE_WORLD_SIZE, solver.IMS_PER_BATCH, solver.BASE_LR = 8, 16, 0.02
    solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, solver.CHECKPOINT_PERIOD = 1000, (600, 800), 100, 500
    tiny_cfg.TEST.EVAL_PERIOD = 250
    tiny_cfg.freeze()
    two = Trainer.auto_scale_workers(tiny_cfg, 2)
    assert (two.SOLVER.IMS_PER_BATCH, two.SOLVER.BASE_LR, two.SOLVER.MAX_ITER) == (4, pytest.approx(0.005), 4000)
    assert (two.SOLVER.STEPS, two.SOLVER.WARMUP_ITERS, two.SOLVER.CHECKPOINT_PERIOD) == ((2400, 3200), 400, 2000)
    assert two.TEST.EVAL_PERIOD == 1000 and two.is_frozen()
    assert Trainer.auto_scale_workers(two, 2) is two


def test_without_a_reference_nothing_is_scaled(tiny_cfg):
    assert Trainer.auto_scale_workers(tiny_cfg, 64) is tiny_cfg


def test_no_period_becomes_zero(tiny_cfg):
    tiny_cfg.SOLVER.REFERENCE_WORLD_SIZE, tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 1, 3
    tiny_cfg.TEST.EVAL_PERIOD = 3
    many = Trainer.auto_scale_workers(tiny_cfg, 16)
    assert (many.SOLVER.CHECKPOINT_PERIOD, many.TEST.EVAL_PERIOD) == (1, 1)
    for no_length in (0, -1):
        tiny_cfg.TEST.EVAL_PERIOD = no_length
        assert Trainer.auto_scale_workers(tiny_cfg, 16).TEST.EVAL_PERIOD == no_length


def test_a_reference_that_does_not_divide_the_batch_is_named(tiny_cfg):
    tiny_cfg.SOLVER.REFERENCE_WORLD_SIZE, tiny_cfg.SOLVER.IMS_PER_BATCH = 8, 12
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 12.*REFERENCE_WORLD_SIZE, 8"):
        Trainer.auto_scale_workers(tiny_cfg, 2)


def test_trainer_takes_the_scaled_config(tiny_cfg):
    tiny_cfg.SOLVER.REFERENCE_WORLD_SIZE, tiny_cfg.SOLVER.IMS_PER_BATCH, tiny_cfg.SOLVER.MAX_ITER = 2, 4, 10
    trainer = Trainer(tiny_cfg)
    assert trainer.max_iter == 20 and len(next(iter(trainer.data_loader))) == 2


def test_torchrun_and_num_gpus_exclude_each_other(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit, match="leave out --num-gpus"):
        launch(print, argument_parser().parse_args(["--num-gpus", "2"]))


def test_more_processes_than_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit, match="2 processes on a machine with 1 GPUs.*CUDA_VISIBLE_DEVICES"):
        launch(print, argument_parser().parse_args(["--num-gpus", "2"]))


def test_one_process_runs_here(capsys):
    launch(lambda args: print("gpus", args.num_gpus), argument_parser().parse_args([]))
    assert "gpus 1" in capsys.readouterr().out


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


@pytest.mark.parametrize("key", ["DATASETS.TRAIN", "DATASETS.TEST"])
def test_other_data_beside_own_are_an_error(key, tiny_coco):
    with pytest.raises(ValueError, match=f"{key} is without effect"):
        setup("--train-json", str(tiny_coco[0]), key, "('shapes_val',)")


def test_options_win_over_arguments_and_file(tiny_coco):
    json_file, folder = map(str, tiny_coco)
    cfg = setup("--train-json", "nowhere.json", "DATASETS.CUSTOM.TRAIN_JSON", json_file)
    assert cfg.DATASETS.CUSTOM.TRAIN_JSON == json_file


def test_own_data_bring_their_recipe_and_options_win(tiny_coco, tmp_path):
    cfg = setup("--data", str(tiny_coco[0].parent), "--output", str(tmp_path / "mine"), "SOLVER.MAX_ITER", "7")
    assert cfg.OUTPUT_DIR == str(tmp_path / "mine") and cfg.DATASETS.CUSTOM.CLASS_NAMES == ["green", "pink"]
    assert cfg.MODEL.META_ARCHITECTURE == "DVIS" and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.INPUT.MIN_SIZE_TEST == 96 and cfg.SOLVER.MAX_ITER == 7  # objects of 19 px in images of 64
    assert len(DatasetCatalog.get("custom_train")) == 5 and len(DatasetCatalog.get("custom_val")) == 1
    assert cfg.DATASETS.TRAIN == ("custom_train",) and cfg.DATASETS.TEST == ("custom_val",)


def test_a_json_alone_brings_a_recipe_too(tiny_coco):
    cfg = setup("--train-json", str(tiny_coco[0]), "--train-images", str(tiny_coco[1]))
    assert cfg.INPUT.MIN_SIZE_TEST == 96 and cfg.DATASETS.TEST == () and cfg.DATASETS.CUSTOM.VAL_JSON == ""


def test_a_config_wins_over_the_recipe(tiny_coco, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = setup("--data", str(tiny_coco[0].parent), "--config-file", "shapes/shapes.yaml")
    assert cfg.INPUT.MIN_SIZE_TEST == 128 and cfg.OUTPUT_DIR == "output/shapes" and cfg.DATASETS.TRAIN


def test_a_resumed_training_has_the_same_data_split_and_recipe(tiny_coco, tmp_path):
    args = ["--data", str(tiny_coco[0].parent), "OUTPUT_DIR", str(tmp_path / "mine"), "SOLVER.BASE_LR", "0.5"]
    first = setup("--resume", *args)  # there is nothing yet
    (tmp_path / "mine" / "config.yaml").write_text(first.dump())
    before = {d["file_name"] for d in DatasetCatalog.get("custom_val")}
    (tmp_path / "images" / "new.txt").touch()  # the folder has changed
    again = setup("--resume", *args)
    assert json.dumps(dict(flat(again))) == json.dumps(dict(flat(first)))  # where tuples are lists
    assert setup("--resume", "--output", str(tmp_path / "mine"), "SEED", "3").SEED == 3
    assert {d["file_name"] for d in DatasetCatalog.get("custom_val")} == before


def test_the_output_folder_is_named_after_the_data(tiny_coco, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert setup("--data", ".").OUTPUT_DIR == os.path.join("output", tmp_path.name)


@pytest.mark.parametrize("args", [["--data", "a"], ["--train-json", "a"], ["--config-file", "a"], ["--resume"]])
def test_what_is_missing_is_said_in_three_lines(args):
    parser = argument_parser()
    assert missing_arguments(parser.parse_args(args)) == ""
    assert len(missing_arguments(parser.parse_args(["SEED", "1"])).splitlines()) == 3


def test_missing_own_data_are_named():
    with pytest.raises((DatasetError, FileNotFoundError), match="nowhere.json"):
        setup("--train-json", "nowhere.json")
