import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from dvis_d2.engine import Trainer, argument_parser, setup_cfg
from dvis_d2.modeling import TimmBackbone


def rates(model, optimizer):
    """Learning rate by the name of the parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    return found


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_biases_have_a_rate_of_their_own(tiny_cfg, optimizer):
    tiny_cfg.SOLVER.OPTIMIZER, tiny_cfg.SOLVER.BASE_LR, tiny_cfg.SOLVER.BIAS_LR_FACTOR = optimizer, 0.01, 2.0
    model = build_model(tiny_cfg)
    for name, rate in rates(model, Trainer.build_optimizer(tiny_cfg, model)).items():
        assert rate == pytest.approx(0.02 if name.endswith("bias") else 0.01), name


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_there_is_one_rate_and_detectron2s_decay_of_norms(tiny_cfg, optimizer):
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


@pytest.mark.parametrize("optimizer, kind", [("SGD", torch.optim.SGD), ("ADAMW", torch.optim.AdamW)])
def test_optimizers(tiny_cfg, optimizer, kind):
    tiny_cfg.SOLVER.OPTIMIZER = optimizer
    assert isinstance(Trainer.build_optimizer(tiny_cfg, nn.Linear(2, 2)), kind)


def test_unknown_optimizer_is_named(tiny_cfg):
    tiny_cfg.SOLVER.OPTIMIZER = "LBFGS"
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER.*LBFGS"):
        Trainer.build_optimizer(tiny_cfg, nn.Linear(2, 2))


@pytest.fixture
def photos_cfg(tiny_coco, tmp_path):
    data = [
        "--config-file",
        "photos/photos.yaml",
        "--train-json",
        str(tiny_coco[0]),
        "--train-images",
        str(tiny_coco[1]),
    ]
    opts = ["OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu"]
    return setup_cfg(argument_parser().parse_args([*data, *opts]))


def test_a_backbone_that_has_seen_images_learns_slower(photos_cfg):
    model = build_model(photos_cfg)
    for name, rate in rates(model, Trainer.build_optimizer(photos_cfg, model)).items():
        assert rate == pytest.approx(0.0001 if name.startswith("backbone.bottom_up.") else 0.001), name


def test_a_training_starts_from_the_backbones_weights_once(photos_cfg, monkeypatch):
    loaded = []
    monkeypatch.setattr(TimmBackbone, "load_pretrained", lambda self: loaded.append(self))
    trainer = Trainer(photos_cfg)
    trainer.resume_or_load(resume=True)
    assert loaded == [trainer.unwrapped_model.backbone.bottom_up]
    trainer.checkpointer.save("model_0000001", iteration=1)
    trainer.resume_or_load(resume=True)  # as that checkpoint has them
    assert len(loaded) == 1
