import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from dvis_d2.engine import Trainer


def rates(model, optimizer):
    """Learning rate by the name of the parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    return found


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
@pytest.mark.parametrize("bias", [1.0, 2.0])
def test_rates_of_the_parts(tiny_cfg, optimizer, bias):
    tiny_cfg.SOLVER.OPTIMIZER, tiny_cfg.SOLVER.BASE_LR, tiny_cfg.SOLVER.BIAS_LR_FACTOR = optimizer, 0.01, bias
    tiny_cfg.SOLVER.ROI_HEADS_LR_FACTOR, tiny_cfg.SOLVER.LABEL_MAP_LR_FACTOR = 5.0, 0.1
    model = build_model(tiny_cfg)
    for name, rate in rates(model, Trainer.build_optimizer(tiny_cfg, model)).items():
        expected = 0.05 if name.startswith("roi_heads.") else 0.001
        assert rate == pytest.approx(expected * (bias if name.endswith("bias") else 1)), name


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_without_factors_there_is_one_rate_and_detectron2s_decay_of_norms(tiny_cfg, optimizer):
    tiny_cfg.SOLVER.OPTIMIZER = optimizer
    tiny_cfg.SOLVER.WEIGHT_DECAY, tiny_cfg.SOLVER.WEIGHT_DECAY_NORM = 0.02, 0.0
    built = Trainer.build_optimizer(tiny_cfg, build_model(tiny_cfg))
    groups = [(group["lr"], group["weight_decay"]) for group in built.param_groups]
    assert sorted(groups) == [(tiny_cfg.SOLVER.BASE_LR, 0.0), (tiny_cfg.SOLVER.BASE_LR, 0.02)]


def test_sgd_is_detectron2s(tiny_cfg):
    from detectron2.solver import build_optimizer

    tiny_cfg.SOLVER.OPTIMIZER, tiny_cfg.SOLVER.NESTEROV, tiny_cfg.SOLVER.MOMENTUM = "SGD", True, 0.8
    tiny_cfg.SOLVER.WEIGHT_DECAY_BIAS, tiny_cfg.SOLVER.BIAS_LR_FACTOR = 0.0, 2.0
    model = build_model(tiny_cfg)
    ours, theirs = Trainer.build_optimizer(tiny_cfg, model), build_optimizer(tiny_cfg, model)
    assert type(ours).__name__ == type(theirs).__name__ == "SGDWithGradientClip"

    def settings(optimizer):
        of = {}
        for group in optimizer.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            of |= {id(p): options for p in group["params"]}
        return of

    assert settings(ours) == settings(theirs)


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_a_factor_of_0_freezes_its_part(tiny_cfg, optimizer):
    tiny_cfg.SOLVER.OPTIMIZER, tiny_cfg.SOLVER.LABEL_MAP_LR_FACTOR = optimizer, 0.0
    model = build_model(tiny_cfg).train()
    built = Trainer.build_optimizer(tiny_cfg, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with EventStorage(0):
        sum(model(next(iter(Trainer.build_train_loader(tiny_cfg)))).values()).backward()
    built.step()
    for name, parameter in model.named_parameters():
        if not name.startswith("roi_heads."):
            assert torch.equal(parameter, before[name]), name
    assert not torch.equal(model.roi_heads.iou_pred.weight, before["roi_heads.iou_pred.weight"])


@pytest.mark.parametrize("key", ["ROI_HEADS_LR_FACTOR", "LABEL_MAP_LR_FACTOR"])
def test_a_negative_factor_is_named(tiny_cfg, key):
    tiny_cfg.SOLVER[key] = -1.0
    with pytest.raises(ValueError, match=f"SOLVER.{key} is -1.0"):
        Trainer.build_optimizer(tiny_cfg, torch.nn.Linear(2, 2))


def test_a_run_with_factors_resumes_where_it_stopped(tiny_cfg, tmp_path):
    """Rates, their schedule and the weights, against the uninterrupted run."""
    tiny_cfg.DATASETS.TEST, tiny_cfg.TEST.EVAL_PERIOD = (), 0
    tiny_cfg.SOLVER.ROI_HEADS_LR_FACTOR, tiny_cfg.SOLVER.LABEL_MAP_LR_FACTOR = 4.0, 0.5
    tiny_cfg.SOLVER.BASE_LR_END = tiny_cfg.SOLVER.BASE_LR / 10

    def trained(folder, resume, until=4):
        tiny_cfg.OUTPUT_DIR = str(tmp_path / folder)
        torch.manual_seed(0)
        trainer = Trainer(tiny_cfg)
        trainer.resume_or_load(resume=resume)
        trainer.max_iter = until  # the schedule stays that of MAX_ITER
        trainer.train()
        return trainer

    whole = trained("whole", False)
    trained("parts", False, until=2)
    resumed = trained("parts", True)
    assert resumed.start_iter == 2
    assert rates(resumed.model, resumed.optimizer) == rates(whole.model, whole.optimizer)
    fast, slow = sorted(set(rates(whole.model, whole.optimizer).values()), reverse=True)
    assert fast / slow == pytest.approx(8)
    for (name, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
