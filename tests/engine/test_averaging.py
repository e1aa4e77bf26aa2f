import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from dvis_d2.engine import Trainer
from dvis_d2.engine.train_loop import AverageWeights


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_average_by_hand_with_the_normalizations_statistics():
    model = nn.BatchNorm2d(1)
    hook = AverageWeights(model, 0.75)
    for value in (8.0, 4.0, 0.0):
        nn.init.constant_(model.weight, value)
        model.running_mean.fill_(-value)
        hook.after_step()
    # 8, then 3/4 8 + 1/4 4 = 7, then 3/4 7 = 5.25
    assert hook.averaged.module.weight.item() == pytest.approx(5.25)
    assert hook.averaged.module.running_mean.item() == pytest.approx(-5.25)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 999.0])
def test_a_decay_out_of_range_is_named(tiny_cfg, decay):
    tiny_cfg.SOLVER.EMA_DECAY = decay
    with pytest.raises(ValueError, match=f"SOLVER.EMA_DECAY is {decay}"):
        Trainer(tiny_cfg)


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.SOLVER.EMA_DECAY = 0.9
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 4
    return tiny_cfg


def run(cfg, resume=False, max_iter=None):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.max_iter = max_iter or cfg.SOLVER.MAX_ITER
    trainer.train()
    return trainer


def test_checkpoint_holds_the_average_and_a_resumed_run_continues_both(cfg, tmp_path):
    whole = run(cfg)
    average, trained = state(whole.evaluated_model), state(whole.model)
    assert not same(average, trained)
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(f"{cfg.OUTPUT_DIR}/model_final.pth")
    assert same(state(model), average)

    cfg.OUTPUT_DIR = str(tmp_path / "stopped")
    run(cfg, max_iter=2)
    resumed = run(cfg, resume=True)
    assert resumed.start_iter == 2
    assert same(state(resumed.evaluated_model), average) and same(state(resumed.model), trained)


def test_weights_to_start_from_reach_the_model_in_training(cfg, tmp_path):
    start = Trainer.build_model(cfg)
    torch.save({"model": start.state_dict()}, tmp_path / "start.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "start.pth")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert same(state(trainer.model), state(start)) and same(state(trainer.evaluated_model), state(start))


def test_a_run_without_average_can_go_on_with_one(cfg):
    cfg.SOLVER.EMA_DECAY = 0.0
    plain = run(cfg, max_iter=2)
    cfg.SOLVER.EMA_DECAY = 0.9
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 2 and same(state(trainer.model), state(plain.model))


def test_the_average_is_what_is_evaluated(cfg, monkeypatch):
    cfg.DATASETS.TEST = ("custom_val",)
    evaluated = []
    monkeypatch.setattr(Trainer, "test", classmethod(lambda cls, cfg, model, **_: evaluated.append(model) or {}))
    trainer = run(cfg)
    assert evaluated == [trainer.evaluated_model] and evaluated[0] is not trainer.model


def test_precise_bn_is_refused(cfg):
    cfg.TEST.PRECISE_BN.ENABLED = True
    with pytest.raises(ValueError, match="PRECISE_BN.*EMA_DECAY"):
        Trainer(cfg)
