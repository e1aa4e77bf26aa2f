import json
import math

import pytest
import torch
from detectron2.checkpoint import Checkpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.train_loop import TrainerBase
from torch import nn

from dvis_d2.data.custom import register_from_config
from dvis_d2.engine import Trainer
from dvis_d2.engine.validation_hook import (
    EarlyStop,
    LastCheckpoints,
    Validation,
    main_metric,
    validation_data,
    validation_period,
)


class Idle(TrainerBase):
    """Steps that do nothing, with a checkpoint every second and a validation every one."""

    def __init__(self, folder, aps, patience=0, steps=8):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.checkpointer = Checkpointer(self.model, str(folder), trainer=self)
        self.max_iter = steps
        self.aps = iter(aps)
        self.validation = Validation(1, lambda: {"segm": {"AP": next(self.aps)}}, patience)
        self.register_hooks([LastCheckpoints(self.checkpointer, 2), self.validation])

    def run_step(self):
        nn.init.constant_(self.model.weight, self.iter + 1)

    def run(self, resume=False):
        self.checkpointer.resume_or_load("", resume=resume)
        try:
            self.train(self.iter + 1 if resume else 0, self.max_iter)
        except EarlyStop:
            return "early"
        return "whole"


def stored(folder, name):
    return torch.load(folder / f"{name}.pth", weights_only=False)


def test_the_best_model_is_kept_and_the_last_two_checkpoints(tmp_path):
    trainer = Idle(tmp_path, [math.nan, 10, 30, 20, math.nan, 30, 25, 5])
    assert trainer.run() == "whole"
    best = stored(tmp_path, "model_best")
    assert best["iteration"] == 2 and best["model"]["weight"].item() == 3 and "trainer" not in best
    assert trainer.validation.state == {"done": 8, "best": 30, "best_done": 3, "worse": 5}
    files = {path.stem for path in tmp_path.glob("*.pth")}
    assert files == {"model_best", "model_0000005", "model_0000007", "model_final"}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_training_ends_when_validation_gets_no_better_and_does_not_go_on(tmp_path):
    trainer = Idle(tmp_path, [math.nan, math.nan, math.nan, 10, 9, 9.5, 11], patience=2)
    assert trainer.run() == "early" and trainer.iter == 6 == trainer.max_iter
    assert stored(tmp_path, "model_final")["model"]["weight"].item() == 6
    resumed = Idle(tmp_path, [], patience=2)
    assert resumed.run(resume=True) == "early" and resumed.iter == 6
    longer = Idle(tmp_path, [50, 50], patience=4)
    assert longer.run(resume=True) == "whole" and longer.validation.state["best"] == 50


def test_a_resumed_training_removes_older_checkpoints_too(tmp_path):
    Idle(tmp_path, range(4), steps=4).run()
    Idle(tmp_path, range(5), steps=8).run(resume=True)  # the last of the first part is done again
    assert {p.stem for p in tmp_path.glob("model_0*")} == {"model_0000005", "model_0000007"}


@pytest.mark.parametrize("stop_at", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_resumed_training_validates_as_an_uninterrupted_one(tiny_cfg, tmp_path, monkeypatch, stop_at):
    """The checkpoint of iteration 1 is written before the validation after it, which a stop at 2 loses otherwise."""
    from .test_trainer import run, weights

    def score(cls, cfg, model, **_):
        return {"segm": {"AP": model.backbone.fpn_output2.weight.sum().item()}}

    monkeypatch.setattr(Trainer, "test", classmethod(score))
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.TEST.EARLY_STOPPING = 6, 2, 9
    whole = run(tiny_cfg)
    outputs = [tiny_cfg.OUTPUT_DIR, str(tmp_path / "interrupted")]
    tiny_cfg.OUTPUT_DIR = outputs[1]
    run(tiny_cfg, stop_at=stop_at)
    resumed = run(tiny_cfg, resume=True)
    assert resumed.start_iter == 2 + 2 * (stop_at > 2)
    assert resumed._validation.state == whole._validation.state
    assert resumed._validation.state["done"] == 6 and resumed._validation.state["best_done"] in (2, 4, 6)
    for (name, a), b in zip(weights(whole).items(), weights(resumed).values(), strict=True):
        assert torch.equal(a, b), name
    best = [torch.load(f"{folder}/model_best.pth", weights_only=False)["model"] for folder in outputs]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_main_metric():
    assert main_metric({"bbox": {"AP": 1.0}, "segm": {"AP": 2.0, "AP50": 3.0}}) == 2.0
    assert main_metric({"a_val": {"bbox": {"AP": 1.0}, "segm": {"AP": 2.0}}, "b_val": {"segm": {"AP": 5.0}}}) == 2.0
    assert main_metric({"ap_r": {"AP50": 4.0}}) == 4.0
    assert math.isnan(main_metric({}))


def test_own_data_are_validated_ten_times_a_training(tiny_cfg):
    tiny_cfg.SOLVER.MAX_ITER = 1501
    assert validation_period(tiny_cfg) == 151
    tiny_cfg.SOLVER.MAX_ITER = 30
    assert validation_period(tiny_cfg) == 20
    tiny_cfg.TEST.EVAL_PERIOD = 7
    assert validation_period(tiny_cfg) == 7
    tiny_cfg.TEST.EVAL_PERIOD = -1
    assert validation_period(tiny_cfg) == 0
    tiny_cfg.TEST.EVAL_PERIOD, tiny_cfg.DATASETS.TEST = 0, ("shapes_val",)
    assert validation_period(tiny_cfg) == 0


def test_validation_takes_a_tenth_of_the_images_of_a_training(tiny_cfg, tiny_coco):
    json_file, _ = tiny_coco
    assert validation_data(tiny_cfg) == ("custom_val",)
    content = json.loads(json_file.read_text())
    content["images"] += [content["images"][0] | {"id": i, "file_name": "0.png"} for i in range(7, 42)]
    for image_id in (7, 41):
        content["annotations"].append(content["annotations"][0] | {"id": 100 + image_id, "image_id": image_id})
    json_file.write_text(json.dumps(content))
    register_from_config(tiny_cfg)
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.IMS_PER_BATCH = 1000, 2  # 100 iterations of 2: 20 images
    (name,) = validation_data(tiny_cfg)
    records = DatasetCatalog.get(name)
    ids = [record["image_id"] for record in records]
    assert (
        len(ids) == 20 and ids[0] == 1 and ids[-1] == 41 and max(b - a for a, b in zip(ids, ids[1:], strict=False)) == 3
    )
    assert [len(record["annotations"]) for record in records if record["image_id"] in (1, 41)] == [2, 1]
    assert MetadataCatalog.get(name).thing_classes == ["green", "pink"]
    tiny_cfg.TEST.EVAL_PERIOD = 5
    assert validation_data(tiny_cfg) == ("custom_val",)
