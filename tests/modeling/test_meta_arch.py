import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from dvis_d2.modeling.meta_arch import downsample_instance_ids, instance_masks

LOSSES = {"loss_binary", "loss_pi", "loss_ms", "loss_quant", "loss_cls", "loss_iou", "loss_mask"}


@pytest.fixture
def model(tiny_cfg):
    torch.manual_seed(0)
    return build_model(tiny_cfg)


def make_input(instance_ids, image=None):
    """What the mapper gives: instance k of ``instance_ids`` has class k - 1."""
    num = max(int(instance_ids.max()), 0)
    masks = torch.stack([instance_ids == k for k in range(1, num + 1)]) if num else torch.zeros(0, *instance_ids.shape)
    bitmasks = BitMasks(masks.bool())
    instances = Instances(
        tuple(instance_ids.shape),
        gt_boxes=bitmasks.get_bounding_boxes() if num else Boxes(torch.zeros(0, 4)),
        gt_classes=torch.arange(num),
        gt_masks=bitmasks,
    )
    if image is None:
        image = torch.randint(0, 256, (3, *instance_ids.shape), dtype=torch.uint8)
    return {"image": image, "instances": instances, "instance_ids": instance_ids, "file_name": "x.png"}


def two_objects(height=64, width=64):
    ids = torch.zeros(height, width, dtype=torch.int64)
    ids[8:28, 8:28] = 1
    ids[36:60, 30:62] = 2
    return ids


def train_step(model, inputs):
    model.train()
    with EventStorage(0):
        losses = model(inputs)
    sum(losses.values()).backward()
    return losses


HARD_CASES = {
    "two objects": [two_objects()],
    "sizes that differ and do not divide": [two_objects(), two_objects(61, 75)],
    # two of them: batch normalization has no statistics of a single value
    "one pixel": [torch.ones(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)],
    "no object": [torch.zeros(64, 64, dtype=torch.int64)],
    "all ignored": [torch.full((64, 64), -1)],
    "half empty batch": [torch.zeros(64, 64, dtype=torch.int64), two_objects(), torch.full((64, 64), -1)],
    "one object over everything": [torch.ones(64, 64, dtype=torch.int64)],
}


@pytest.mark.parametrize("case", HARD_CASES)
def test_every_case_has_all_losses_finite_and_all_gradients(model, case):
    losses = train_step(model, [make_input(ids) for ids in HARD_CASES[case]])
    assert set(losses) == LOSSES
    assert all(value.isfinite() for value in losses.values()), losses
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_ignored_pixels_cost_nothing(model):
    losses = train_step(model, [make_input(torch.full((64, 64), -1))])
    assert losses["loss_binary"] == 0 and losses["loss_pi"] == 0
    # proposals on ignored ground are neither objects nor background
    assert losses["loss_cls"] == 0 and losses["loss_mask"] == 0


def test_padding_continues_the_border_of_each_image(model):
    tall, wide = (make_input(two_objects(*size)) for size in ((70, 40), (50, 64)))
    images = model.preprocess_image([tall, wide]).tensor
    for padded, x in zip(images, (tall, wide), strict=True):
        image = (x["image"] - model.pixel_mean) / model.pixel_std
        rows, columns = (
            torch.arange(n).clamp(max=m - 1) for n, m in zip(padded.shape[1:], image.shape[1:], strict=True)
        )
        assert torch.equal(padded, image[:, rows][:, :, columns])


def test_padding_of_the_batch_is_ignored(model):
    images = model.preprocess_image([make_input(two_objects(40, 64)), make_input(two_objects(64, 40))])
    ids = model.preprocess_instance_ids([make_input(two_objects(40, 64)), make_input(two_objects(64, 40))], images)
    stride = model.proposal_generator.stride
    assert (ids[0, 40 // stride :] == -1).all() and (ids[0, : 40 // stride] >= 0).all()
    assert (ids[1, :, 40 // stride :] == -1).all()


def infer(model, image, **kwargs):
    model.eval()
    return model.inference([{"image": image, **kwargs}], intermediate=True)[0]


@pytest.mark.parametrize("height, width", [(1, 1), (64, 64), (37, 81)])
def test_inference_at_any_size_gives_masks_at_the_output_size(model, height, width):
    model.proposal_generator.grouping["foreground_threshold"] = -1.0  # an untrained map is all foreground
    model.roi_heads.score_threshold = 0.0
    output = infer(model, torch.randint(0, 256, (3, height, width), dtype=torch.uint8), height=50, width=70)
    instances = output["instances"]
    assert instances.image_size == (50, 70)
    assert instances.pred_masks.shape == (len(instances), 50, 70) and instances.pred_masks.dtype == torch.bool
    assert (instances.scores[:-1] >= instances.scores[1:]).all()
    if (height, width) != (1, 1):  # which is less than MIN_AREA
        assert len(output["proposals"]) >= 1
    stride = model.proposal_generator.stride
    assert output["label_map"].shape == (-(-height // stride), -(-width // stride))


def test_an_image_of_nothing_gives_nothing(model):
    torch.nn.init.constant_(model.proposal_generator.label_head.predictor.bias, -9.0)
    output = infer(model, torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert len(output["instances"]) == len(output["proposals"]) == 0
    assert output["instances"].pred_masks.shape == (0, 64, 64)


def test_nan_pixels_give_no_instances_and_no_crash(model):
    image = torch.full((3, 64, 64), float("nan"))
    assert len(infer(model, image)["instances"]) == 0


def test_forward_in_eval_mode_is_inference_and_deterministic(model):
    model.eval()
    inputs = [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}]
    first, second = model(inputs)[0], model(inputs)[0]
    assert set(first) == {"instances"}
    assert torch.equal(first["instances"].scores, second["instances"].scores)


def test_a_batch_equals_its_images_whatever_their_sizes(model):
    model.proposal_generator.grouping["foreground_threshold"] = -1.0  # an untrained map is all foreground
    model.roi_heads.score_threshold = 0.0
    sizes = ((64, 64), (40, 90), (64, 64), (61, 33), (128, 96))
    inputs = [{"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8), "height": 50} for size in sizes]
    together = model.eval().inference(inputs, intermediate=True)
    assert [out["instances"].image_size for out in together] == [(50, width) for _, width in sizes]
    for x, both in zip(inputs, together, strict=True):
        (alone,) = model.inference([x], intermediate=True)
        torch.testing.assert_close(alone["label_map"], both["label_map"], atol=1e-5, rtol=1e-5)
        assert len(alone["instances"]) == len(both["instances"]) > 0
        torch.testing.assert_close(alone["instances"].scores, both["instances"].scores, atol=1e-4, rtol=1e-4)
        assert torch.equal(alone["instances"].pred_masks, both["instances"].pred_masks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_trains_and_infers_on_cuda(tiny_cfg):
    tiny_cfg.MODEL.DEVICE = "cuda"
    model = build_model(tiny_cfg)
    with torch.autocast("cuda", torch.float16):
        losses = train_step(model, [make_input(two_objects())])
    assert all(value.isfinite() for value in losses.values())
    assert infer(model, torch.zeros(3, 64, 64, dtype=torch.uint8))["instances"].pred_masks.is_cuda


def test_heads_join_at_their_iteration(tiny_cfg):
    """Until then their losses are 0 with a (zero) gradient for every parameter, as distributed training needs."""
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.MODEL.DVIS_ROI_HEADS.START = 10, 0.5
    torch.manual_seed(0)
    model = build_model(tiny_cfg).train()
    for iteration, joined in ((4, False), (5, True)):
        model.zero_grad()
        with EventStorage(iteration):
            losses = model([make_input(two_objects()), make_input(two_objects())])
            idle = list(model.idle_parameters())
        assert idle == ([] if joined else list(model.roi_heads.parameters()))
        assert set(losses) == LOSSES
        assert (losses["loss_cls"] > 0) == joined
        sum(losses.values()).backward()
        gradients = [p.grad for p in model.roi_heads.parameters()]
        assert all(g is not None for g in gradients)
        assert any(g.abs().sum() > 0 for g in gradients) == joined
        assert model.proposal_generator.label_head.predictor.weight.grad.abs().sum() > 0


def test_downsample_takes_the_majority_of_every_cell():
    ids = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 2], [2, 2, -1, -1], [2, 1, -1, 3]]])
    assert downsample_instance_ids(ids, 2).tolist() == [[[1, 0], [2, -1]]]


def test_downsample_invents_no_id_where_no_id_has_a_majority():
    # 1 and 5 share the cell; an average would say 3
    ids = torch.tensor([[[1, 5], [5, 1]]])
    assert downsample_instance_ids(ids, 2).item() in (1, 5)


def test_downsample_does_not_shift_objects():
    ids = torch.zeros(1, 32, 32, dtype=torch.int64)
    ids[0, 8:24, 8:24] = 1
    small = downsample_instance_ids(ids, 4)[0]
    assert small.nonzero().float().mean(dim=0).tolist() == [3.5, 3.5]
    assert small.sum() == 16


def test_downsample_at_stride_1_is_the_identity():
    ids = torch.randint(-1, 4, (2, 5, 7))
    assert torch.equal(downsample_instance_ids(ids, 1), ids)


def test_instance_masks_are_in_the_order_of_the_instances():
    ids = torch.tensor([[0, 2, 2], [-1, 1, 3]])
    masks = instance_masks(ids, 4)
    assert masks.shape == (4, 2, 3)
    assert masks.sum(dim=(1, 2)).tolist() == [1, 2, 1, 0]
    assert masks[1, 0].tolist() == [False, True, True]
