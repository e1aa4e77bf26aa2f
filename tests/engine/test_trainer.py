import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from dvis_d2.engine import Trainer
from dvis_d2.engine.train_loop import ExamplePicture


class StopAt(HookBase):
    """What Ctrl-C does, at a chosen step."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyboardInterrupt


def weights(trainer):
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


def run(cfg, resume=False, stop_at=None):
    torch.manual_seed(0)  # the initial weights; everything later is seeded by cfg.SEED
    trainer = Trainer(cfg)
    if stop_at is not None:
        trainer.register_hooks([StopAt(stop_at)])
    trainer.resume_or_load(resume=resume)
    try:
        trainer.train()
    except KeyboardInterrupt:
        assert stop_at is not None
    return trainer


@pytest.mark.parametrize("amp, workers", [(False, 0), (True, 1)])
def test_resumed_run_equals_the_uninterrupted_one(tiny_cfg, tmp_path, amp, workers):
    tiny_cfg.SOLVER.AMP.ENABLED = amp
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    tiny_cfg.TEST.EVAL_PERIOD = 0
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.MAX_ITER = 5
    whole = run(tiny_cfg)
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "interrupted")
    stopped = run(tiny_cfg, stop_at=2)  # one step after the checkpoint of iteration 1
    assert stopped.iter == 2
    torch.rand(7), np.random.rand(7)  # a new process has other generator states
    resumed = run(tiny_cfg, resume=True)
    assert resumed.start_iter == 2
    for (name, a), b in zip(weights(whole).items(), weights(resumed).values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(
        weights(stopped)["backbone.fpn_output2.weight"], weights(whole)["backbone.fpn_output2.weight"]
    )


def test_optimizer_does_not_count_the_iterations_before_the_heads_join(tiny_cfg, tmp_path):
    """Neither decay nor moments of zeros, and a run stopped before they join continues as if it had not been."""
    tiny_cfg.TEST.EVAL_PERIOD = 0
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.OPTIMIZER, tiny_cfg.SOLVER.WEIGHT_DECAY = "ADAMW", 0.1
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.MODEL.DVIS_ROI_HEADS.START = 4, 0.75
    whole = run(tiny_cfg)
    steps = {p: state["step"].item() for p, state in whole.optimizer.state.items()}
    in_heads = set(whole.model.roi_heads.parameters())
    assert in_heads and {steps[p] for p in in_heads} == {1}
    assert {steps[p] for p in whole.model.proposal_generator.parameters()} == {4}

    tiny_cfg.OUTPUT_DIR = str(tmp_path / "interrupted")
    torch.manual_seed(0)
    initial = weights(Trainer(tiny_cfg))
    stopped = run(tiny_cfg, stop_at=2)
    moved = {name for name, value in weights(stopped).items() if not torch.equal(value, initial[name])}
    assert moved and not any(name.startswith("roi_heads.") for name in moved)
    resumed = run(tiny_cfg, resume=True)
    assert resumed.start_iter == 2
    for (name, a), b in zip(weights(whole).items(), weights(resumed).values(), strict=True):
        assert torch.equal(a, b), name


def test_training_learns_and_evaluates(tiny_cfg):
    tiny_cfg.SOLVER.MAX_ITER = 150
    tiny_cfg.SOLVER.BASE_LR = 0.004
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 150
    trainer = Trainer(tiny_cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    with open(f"{tiny_cfg.OUTPUT_DIR}/metrics.json") as f:
        logged = [json.loads(line) for line in f]
    losses = [x["total_loss"] for x in logged if "total_loss" in x]
    assert losses[-1] < 0.4 * losses[0]
    for term in ("loss_binary", "loss_pi", "loss_ms", "loss_quant", "loss_cls", "loss_iou", "loss_mask"):
        assert term in logged[0]
    # two classes with ids 3 and 7, memorised
    assert results["segm"]["AP50"] > 50
    assert {"AP-green", "AP-pink"} <= set(results["segm"])
    seen = trainer.statistics
    assert (seen.num_images, seen.num_objects, seen.scale) == (6, 12, 1)


def test_non_finite_loss_names_the_images_and_leaves_the_weights_alone(tiny_cfg):
    trainer = Trainer(tiny_cfg)
    torch.nn.init.constant_(trainer.model.roi_heads.iou_pred.bias, float("nan"))
    before = weights(trainer)
    with EventStorage(0), pytest.raises(FloatingPointError, match=r"loss_iou.*\.png"):
        trainer.iter = trainer._trainer.iter = 0
        trainer.run_step()
    after = weights(trainer)
    parameters = [name for name, _ in trainer.model.named_parameters() if not name.endswith("iou_pred.bias")]
    assert all(torch.equal(before[name], after[name]) for name in parameters)


def test_training_picture_reaches_tensorboard(tiny_cfg):
    tiny_cfg.VIS_PERIOD = 2
    tiny_cfg.DATASETS.TEST = ()
    trainer = Trainer(tiny_cfg)
    pictures = []

    class Collect(HookBase):
        def after_step(self):
            pictures.extend(self.trainer.storage._vis_data)

    collect = Collect()
    collect.trainer = trainer
    trainer._hooks.insert(-1, collect)  # before the writers, which empty the storage
    trainer.train()
    assert sorted({step for _, _, step in pictures}) == [1, 3]  # a picture stays until it is written
    name, image, _ = pictures[0]
    assert image.shape[0] == 3 and image.shape[2] > 4 * image.shape[1] and 0 <= image.min() < image.max() <= 1
    assert trainer.model.training


def test_validation_picture_shows_the_first_image_of_the_validation(tiny_cfg):
    model, hook = Trainer.build_model(tiny_cfg), ExamplePicture(tiny_cfg, 2, validation=True)
    with EventStorage() as storage:
        for iteration in (0, 1):
            hook.trainer = SimpleNamespace(iter=iteration, unwrapped_model=model, storage=storage)
            hook.after_step()
    ((name, image, _),) = storage._vis_data
    assert name == "validation example" and image.shape[2] > 4 * image.shape[1] and model.training
