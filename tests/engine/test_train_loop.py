import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils.events import EventStorage
from torch import nn

from dvis_d2.config import add_dvis_config
from dvis_d2.engine import Trainer
from dvis_d2.engine.train_loop import TrainingStep, autocast_dtype, build_step


class Slope(nn.Module):
    """Mean of (w x - y)^2, and a second term with a random draw; remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5]))
        self.calls = []

    def forward(self, batch):
        self.calls.append(batch)
        x, y = torch.tensor(batch).T
        return {"loss_a": ((self.weight * x - y) ** 2).mean(), "loss_b": 0 * self.weight.sum() + torch.rand(())}


DATA = [(1.0, 3.0), (2.0, -1.0), (0.5, 0.0), (4.0, 2.0)]


def trained(make_optimizer, *, data=(DATA,), scaler=False, **options):
    model = Slope()
    step = TrainingStep(model, list(data), make_optimizer([model.weight]), device_type="cpu", **options)
    if scaler:
        step.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    with EventStorage() as storage:
        for step.iter in range(len(data)):
            step.run_step()
    return model, storage


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def test_parts_are_every_kth_image_and_give_the_whole_batchs_gradient():
    whole, whole_log = trained(sgd)
    parts, parts_log = trained(sgd, num_parts=2)
    assert whole.calls == [DATA] and parts.calls == [DATA[0::2], DATA[1::2]]
    # d/dw of the mean at w = 1/2: mean of 2 x (w x - y) = (-5 + 8 + 0.25 + 0) / 4
    assert whole.weight.item() == pytest.approx(0.5 - 0.1 * 3.25 / 4)
    assert parts.weight.item() == pytest.approx(whole.weight.item())
    assert parts_log.latest()["loss_a"][0] == pytest.approx(whole_log.latest()["loss_a"][0])


def test_every_part_and_iteration_has_its_own_seed():
    draws = []
    for num_parts in (1, 2):
        model, storage = trained(sgd, data=(DATA, DATA), num_parts=num_parts, seed=7)
        draws.append(storage.history("loss_b").values())
    torch.manual_seed(7 + 1)
    assert draws[0][1][0] == pytest.approx(torch.rand(()).item())
    expected = []
    for number in (2, 3):  # the parts of the second iteration
        torch.manual_seed(7 + number)
        expected.append(torch.rand(()).item())
    assert draws[1][1][0] == pytest.approx(sum(expected) / 2)


def clipped_adamw(parameters):
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    module = nn.Module()
    module.weight = parameters[0]
    return Trainer.build_optimizer(cfg, module)


def test_clipping_sees_gradients_without_the_loss_scale():
    """Gradients of very different size, of which only the large ones may be clipped."""
    data = ([(0.1, 0.3)], [(4.0, -9.0)], [(0.1, 0.3)])
    plain, _ = trained(clipped_adamw, data=data)
    scaled, _ = trained(clipped_adamw, data=data, scaler=True)
    assert plain.weight.item() != 0.5
    assert scaled.weight.item() == pytest.approx(plain.weight.item(), rel=1e-6)


@pytest.mark.parametrize("images, parts", [(4, 3), (4, 0), (4, 8)])
def test_a_batch_that_cannot_be_divided_is_named(tiny_cfg, images, parts):
    tiny_cfg.SOLVER.IMS_PER_BATCH, tiny_cfg.SOLVER.ACCUMULATE_STEPS = images, parts
    with pytest.raises(ValueError, match=f"IMS_PER_BATCH is {images} and SOLVER.ACCUMULATE_STEPS is {parts}"):
        build_step(tiny_cfg, nn.Linear(1, 1), [], None)


@pytest.mark.parametrize(
    "amp, device, fast, expected",
    [
        (False, "cpu", True, torch.float32),
        (True, "cpu", True, torch.bfloat16),
        (True, "cpu", False, torch.float32),
        (True, "cuda", False, torch.float16),
    ],
)
def test_precision_follows_option_and_device(tiny_cfg, monkeypatch, amp, device, fast, expected):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    tiny_cfg.SOLVER.AMP.ENABLED = amp
    if device == "cpu":
        step = build_step(tiny_cfg, nn.Linear(1, 1), [], None)
        assert step.dtype == expected and not step.grad_scaler.is_enabled()
    else:
        assert autocast_dtype(device) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 needs CUDA")
def test_float16_step_scales_the_loss_and_stores_the_scale(tiny_cfg):
    tiny_cfg.SOLVER.AMP.ENABLED, tiny_cfg.MODEL.DEVICE = True, "cuda"
    step = build_step(tiny_cfg, nn.Linear(1, 1).cuda(), [], torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0))
    assert step.grad_scaler.is_enabled() and "scale" in step.state_dict()["grad_scaler"]
