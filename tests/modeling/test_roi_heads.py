import pytest
import torch
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from dvis_d2.modeling import DVISROIHeads

STRIDE = 2
NUM_CLASSES = 3


def build(**kwargs):
    shape = ShapeSpec(channels=4 + 1, height=4, width=4)
    args = dict(
        num_classes=NUM_CLASSES,
        batch_size_per_image=8,
        positive_fraction=0.5,
        proposal_matcher=Matcher([0.1, 0.2], [0, -1, 1]),
        in_features=["p2"],
        box_pooler=ROIPooler(4, (0.25,), 0, "ROIAlignV2"),
        box_head=FastRCNNConvFCHead(shape, conv_dims=[8], fc_dims=[8]),
        mask_pooler=ROIPooler(4, (0.25,), 0, "ROIAlignV2"),
        mask_head=MaskRCNNConvUpsampleHead(shape, num_classes=1, conv_dims=[8]),
        map_stride=STRIDE,
        box_margin=0.2,
        alpha=0.5,
        iou_loss_weight=1.0,
        mask_loss_weight=1.0,
        mask_source="fused",
        score_threshold=0.05,
        nms_threshold=0.5,
        max_detections=100,
    )
    return DVISROIHeads(**(args | kwargs))


def make_proposals(*windows, size=32):
    """One proposal for every (y0, y1, x0, x1) of map cells; the label map is 1 inside."""
    masks = torch.zeros(len(windows), size // STRIDE, size // STRIDE, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, windows, strict=True):
        mask[y0:y1, x0:x1] = True
    boxes = torch.tensor([[x0, y0, x1, y1] for y0, y1, x0, x1 in windows]).reshape(-1, 4) * float(STRIDE)
    return Instances(
        (size, size),
        proposal_boxes=Boxes(boxes),
        objectness_logits=torch.ones(len(windows)),
        proposal_masks=masks,
        soft_masks=masks.float(),
    )


def make_targets(*windows, classes, size=32):
    proposals = make_proposals(*windows, size=size)
    masks = proposals.proposal_masks.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    return Instances(
        (size, size),
        gt_boxes=proposals.proposal_boxes,
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_masks=BitMasks(masks),
        gt_map_masks=proposals.proposal_masks,
    )


def features(num_images=1, size=32):
    torch.manual_seed(0)
    return {"p2": torch.randn(num_images, 4, size // 4, size // 4)}


OBJECT = (2, 8, 2, 8)


def test_proposals_are_matched_by_mask_iou():
    heads = build()
    # IoU 1, 1/6 (ignored), 1/3, and one that touches nothing
    proposals = make_proposals(OBJECT, (2, 3, 2, 8), (2, 8, 2, 4), (10, 14, 10, 14))
    with EventStorage():
        (sampled,) = heads.label_and_sample_proposals([proposals], [make_targets(OBJECT, classes=[2])])
    found = sorted(zip(sampled.gt_classes.tolist(), sampled.gt_iou.tolist(), strict=True))
    assert found == [(2, pytest.approx(1 / 3)), (2, 1.0), (NUM_CLASSES, 0.0)]


def test_losses_have_constant_keys_and_reach_every_parameter():
    heads = build()
    targets = [make_targets(OBJECT, classes=[1]), make_targets(classes=[])]
    proposals = [make_proposals(OBJECT, (10, 14, 10, 14)), make_proposals((1, 5, 1, 5))]
    with EventStorage():
        _, losses = heads(None, features(2), proposals, targets)
    assert set(losses) == {"loss_cls", "loss_iou", "loss_mask"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())


@pytest.mark.parametrize("num_images", [1, 2])
def test_no_proposals_at_all_give_zero_losses_with_a_gradient_path(num_images):
    heads = build()
    targets = [make_targets(OBJECT, classes=[1])] * num_images
    with EventStorage():
        _, losses = heads(None, features(num_images), [make_proposals()] * num_images, targets)
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in heads.parameters())  # DistributedDataParallel insists


def test_perfect_predictions_cost_nothing():
    heads = build()
    proposals, targets = [make_proposals(OBJECT)], [make_targets(OBJECT, classes=[1])]
    logits = torch.full((1, NUM_CLASSES + 1), -50.0)
    logits[0, 1] = 50.0
    heads._class_and_iou = lambda f, p: (logits, torch.ones(1))
    # the box is 12 px wide and grows by 20 % to 14.4 px: 8 cells of 1.8 px, the outer ones half outside
    mask = torch.full((1, 8, 8), -50.0)
    mask[:, 1:-1, 1:-1] = 50.0
    heads.mask_logits = lambda f, p: mask
    with EventStorage():
        _, losses = heads(None, features(), proposals, targets)
    assert losses["loss_cls"] < 1e-6 and losses["loss_iou"] < 1e-6
    assert losses["loss_mask"] < 50 * 28 / 64 + 1e-6  # at most the border cells


def no_masks(f, p):
    return torch.zeros(sum(map(len, p)), 8, 8)


def predict(heads, proposals, logits, ious, mask_logits=no_masks):
    heads.eval()
    heads._class_and_iou = lambda f, p: (torch.tensor(logits), torch.tensor(ious))
    heads.mask_logits = mask_logits
    return heads(None, features(len(proposals)), proposals)[0]


def test_score_mixes_iou_and_class_probability():
    heads = build(alpha=0.25)
    big = 100.0
    (result,) = predict(heads, [make_proposals(OBJECT)], [[0.0, 0.0, -big, -big]], [0.8])
    assert result.pred_classes.tolist() == [0, 1]  # a doubtful object is of both classes
    assert result.scores.tolist() == pytest.approx([0.25 * 0.8 + 0.75 * 0.5] * 2)


def test_duplicates_of_one_class_are_suppressed_and_others_kept():
    proposals = make_proposals(OBJECT, (2, 8, 2, 9), (2, 8, 3, 8))
    sure = [[9.0, 0, 0, 0], [9.0, 0, 0, 0], [0, 9.0, 0, 0]]
    (result,) = predict(build(), [proposals], sure, [0.6, 0.9, 0.7])
    assert result.pred_classes.tolist() == [0, 1]
    assert result.scores[0] > result.scores[1]
    assert result.scores[0].item() == pytest.approx(0.5 * 0.9 + 0.5, abs=1e-3)


def test_score_threshold_and_limit():
    proposals = make_proposals((0, 3, 0, 3), (4, 7, 0, 3), (8, 11, 0, 3))
    logits = [[9.0, 0, 0, 0]] * 3
    (result,) = predict(build(score_threshold=0.6), [proposals], logits, [0.1, 0.3, 0.9])
    assert len(result) == 2
    (result,) = predict(build(max_detections=1), [proposals], logits, [0.1, 0.3, 0.9])
    assert result.scores.item() == pytest.approx(0.95, abs=1e-3)


def test_non_finite_scores_are_no_detections():
    (result,) = predict(build(), [make_proposals(OBJECT)], [[float("nan")] * 4], [0.5])
    assert len(result) == 0


def test_images_without_proposals_stay_empty():
    heads = build().eval()
    results, losses = heads(None, features(2), [make_proposals(), make_proposals(OBJECT)])
    assert losses == {}
    outputs = [heads.postprocess(result, 48, 40) for result in results]
    assert len(outputs[0]) == 0 and outputs[0].pred_masks.shape == (0, 48, 40)
    assert outputs[1].pred_masks.shape[1:] == (48, 40)


@pytest.mark.parametrize("source", ["label_map", "fused"])
def test_masks_come_out_at_the_output_size_in_place(source):
    heads = build(mask_source=source)
    (result,) = predict(heads, [make_proposals(OBJECT)], [[9.0, 0, 0, 0]], [0.9])
    output = heads.postprocess(result, 64, 64)  # the image was 32 x 32
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[8:32, 8:32] = True
    if source == "fused":  # a head that says 1/2 everywhere leaves the decision to the label map
        result.mask_probs[:] = 0.5
    difference = (output.pred_masks[0] ^ expected).float().mean()
    assert difference < 0.03
    assert output.pred_boxes.tensor[0].tolist() == pytest.approx([8, 8, 32, 32], abs=1.5)


def test_a_batch_in_which_one_image_has_no_proposal_trains_on_the_others():
    heads = build(iou_target="refined")
    targets = [make_targets(OBJECT, classes=[1])] * 2
    with EventStorage():
        _, losses = heads(None, features(2), [make_proposals(), make_proposals(OBJECT)], targets)
    assert all(value > 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in heads.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_non_finite_features_give_no_detections_where_they_reach(value, class_agnostic):
    torch.manual_seed(0)
    heads = build(class_agnostic=class_agnostic).eval()
    maps = features(2)
    maps["p2"][0] = value
    results, _ = heads(None, maps, [make_proposals(OBJECT), make_proposals(OBJECT)])
    assert [len(result) for result in results] == [0, 1 if class_agnostic else NUM_CLASSES]
    assert results[1].scores.isfinite().all()
    assert len(heads.postprocess(results[0], 32, 32)) == 0


def test_product_of_scores_and_matrix_suppression_reach_the_detections():
    proposals = make_proposals(OBJECT, OBJECT)
    heads = build(alpha=0.5, score_fusion="product", nms="matrix", score_threshold=0.05)
    big = 100.0
    (result,) = predict(heads, [proposals], [[0.0, -big, -big, 0.0], [big, 0, 0, 0]], [0.5, 0.64])
    # sqrt(0.64 * 1), and sqrt(0.5 * 0.5) lowered by a whole duplicate
    assert result.scores.tolist() == pytest.approx([0.8, 0.5 * 2.718281828**-2])
    assert len(result.soft_masks) == 2


def test_suppression_over_all_classes():
    proposals = make_proposals(OBJECT, OBJECT)
    sure = [[9.0, 0, 0, 0], [0, 9.0, 0, 0]]
    (result,) = predict(build(class_agnostic_nms=True), [proposals], sure, [0.6, 0.9])
    assert result.pred_classes.tolist() == [1]


def test_detections_of_one_proposal_share_a_mask_that_is_drawn_once():
    proposals = make_proposals(OBJECT, (2, 4, 2, 4), (10, 14, 10, 14))
    drawn = []

    def left_edge(f, p):
        drawn.append([len(x) for x in p])
        return cat([x.proposal_boxes.tensor[:, 0, None, None].expand(-1, 8, 8) for x in p])

    big = 100.0
    logits = [[-big, -big, -big, big], [big, 0, 0, 0], [-big, 0.0, 0.1, -big]]  # background, class 0, class 1 or 2
    (result,) = predict(build(), [proposals], logits, [0.0, 0.1, 0.9], left_edge)
    assert result.pred_classes.tolist() == [2, 1, 0]
    assert drawn == [[2]]
    assert torch.equal(result.mask_probs[:, 0, 0], torch.tensor([10.0, 10.0, 2.0]).mul(STRIDE).sigmoid())
    assert torch.equal(result.soft_masks, proposals.soft_masks[[2, 2, 1]])


def test_second_look_verifies_the_masks_of_the_mask_head_as_well():
    heads = build(second_look=True, box_margin=0.0).eval()
    background = (10, 14, 10, 14)
    proposals = [make_proposals(OBJECT, (2, 4, 2, 4), background), make_proposals()]
    big = 100.0
    unlikely = [0.0, 0.0, 0.0, 3.5]  # 3 / (3 + exp 3.5) = 0.083
    logits = {OBJECT[1]: [-big, 0.0, -big, 2.0], 4: [0.0, -big, -big, -big], 14: unlikely}

    def class_and_iou(f, p):
        seen.append([len(x) for x in p])
        bottoms = [int(y) // STRIDE for x in p for y in x.proposal_boxes.tensor[:, 3]]
        return torch.tensor([logits[y] for y in bottoms]).reshape(-1, 4), torch.tensor([y / 16 for y in bottoms])

    left = torch.full((2, 8, 8), -9.0)
    left[0, :, :4] = 9.0  # the left half of the first box; of the second one nothing is left
    seen = []
    heads._class_and_iou, heads.mask_logits = class_and_iou, lambda f, p: left[: sum(map(len, p))]
    (first, second), verdicts = heads.candidates([features(2)["p2"]], proposals)
    assert seen == [[3, 0], [1, 0]]  # the third is plainly background, and there is nothing of it to draw
    assert len(first) == 4 and len(second) == 0
    y0, y1, x0, x1 = OBJECT
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[y0:y1, x0 : (x0 + x1) // 2] = True
    assert torch.equal(first.proposal_masks[3], expected) and torch.equal(first.soft_masks[3], expected.float())
    assert first.proposal_boxes.tensor[3].tolist() == [STRIDE * v for v in (x0, y0, (x0 + x1) // 2, y1)]
    (ious, class_probs), (no_ious, no_probs) = verdicts
    assert ious.tolist() == [8 / 16, 4 / 16, 14 / 16, 8 / 16] and no_ious.shape == (0,)
    assert torch.equal(class_probs[3], class_probs[0]) and class_probs.shape == (4, 3) and no_probs.shape == (0, 3)

    (same, _), _ = build().candidates([features(2)["p2"]], proposals)
    assert same is proposals[0]


def test_second_look_without_classes_mends_by_the_iou():
    heads = build(second_look=True, box_margin=0.0, class_agnostic=True).eval()
    heads._class_and_iou = lambda f, p: (None, torch.tensor([0.09, 0.1][: sum(map(len, p))]))
    heads.mask_logits = lambda f, p: torch.full((sum(map(len, p)), 8, 8), 9.0)
    (both,), ((ious, class_probs),) = heads.candidates([features()["p2"]], [make_proposals((10, 14, 10, 14), OBJECT)])
    assert len(both) == 3 and torch.equal(both.proposal_masks[2], both.proposal_masks[1])
    assert ious.tolist() == pytest.approx([0.09, 0.1, 0.09]) and class_probs is None


def losses_with_mask(heads, mask_logits):
    """Of one foreground proposal that is the upper half of its object, and one that touches nothing."""
    proposals = make_proposals((2, 5, 2, 8), (10, 14, 10, 14))
    heads.mask_logits = lambda f, p: mask_logits.expand(sum(map(len, p)), 8, 8)
    ious = []
    trunk = heads._class_and_iou

    def note(f, p):
        logits, iou = trunk(f, p)
        ious.append(iou)
        return logits, iou

    heads._class_and_iou = note
    with EventStorage():
        sampled, losses = heads(None, features(), [proposals], [make_targets(OBJECT, classes=[1])])
    return sampled[0], losses, ious[0]


@pytest.mark.parametrize("target", ["proposal", "refined"])
def test_what_the_iou_head_learns(target):
    heads = build(iou_target=target)
    mask_logits = torch.full((1, 8, 8), -5.0, requires_grad=True)  # an empty mask
    sampled, losses, ious = losses_with_mask(heads, mask_logits)
    assert sampled.gt_iou.tolist() == [0.5, 0.0]  # the field itself stays the proposal's
    wanted = torch.tensor([0.5 if target == "proposal" else 0.0, 0.0])
    expected = torch.nn.functional.huber_loss(ious, wanted, reduction="sum", delta=0.1) / (0.1 * 2)
    torch.testing.assert_close(losses["loss_iou"], expected)
    losses["loss_iou"].backward()
    assert mask_logits.grad is None  # the IoU is no lesson for the mask


def test_class_agnostic_heads_have_no_class_layer_and_no_class_loss():
    heads = build(class_agnostic=True)
    assert heads.cls_score is None and not any("cls_score" in name for name in heads.state_dict())
    # classes beyond num_classes do not matter, ground truth of two classes is foreground all the same
    targets = [make_targets(OBJECT, (10, 14, 10, 14), classes=[7, 2]), make_targets(classes=[])]
    proposals = [make_proposals(OBJECT, (10, 14, 10, 14), (0, 2, 12, 16)), make_proposals((1, 5, 1, 5))]
    with EventStorage():
        sampled, losses = heads(None, features(2), proposals, targets)
    assert sorted(sampled[0].gt_classes.tolist()) == [0, 0, 1] and sampled[1].gt_classes.tolist() == [1]
    assert set(losses) == set(heads.zero_losses()) == {"loss_iou", "loss_mask"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in heads.parameters())


def test_class_agnostic_score_is_the_iou_whatever_alpha_and_duplicates_are_of_one_class():
    heads = build(class_agnostic=True, alpha=0.0).eval()
    heads._class_and_iou = lambda f, p: (None, torch.tensor([0.6, 0.9, 0.7]))
    proposals = [make_proposals(OBJECT, (2, 8, 2, 9)), make_proposals((10, 14, 10, 14))]
    results, _ = heads(None, features(2), proposals)
    assert [r.scores.tolist() for r in results] == [pytest.approx([0.9]), pytest.approx([0.7])]
    assert all(r.pred_classes.tolist() == [0] for r in results)


def test_class_agnostic_heads_without_any_proposal():
    heads = build(class_agnostic=True)
    with EventStorage():
        _, losses = heads(None, features(), [make_proposals()], [make_targets(OBJECT, classes=[1])])
    assert all(value == 0 for value in losses.values())
    results, _ = heads.eval()(None, features(), [make_proposals()])
    assert len(results[0]) == 0 and results[0].pred_classes.dtype == torch.int64
