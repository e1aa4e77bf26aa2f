import math

import pytest
import torch
from detectron2.utils.events import EventStorage

from dvis_d2.modeling import roi_heads
from tests.modeling.roi_head_cases import (
    NUM_CLASSES,
    OBJECT,
    build,
    features,
    make_proposals,
    make_targets,
    say,
)


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
    logits = torch.full((1, NUM_CLASSES + 1), -50.0)
    logits[0, 1] = 50.0
    # the box is 12 px wide and grows by 20 % to 14.4 px: 8 cells of 1.8 px, the outer ones half outside
    mask = torch.full((1, 8, 8), -50.0)
    mask[:, 1:-1, 1:-1] = 50.0
    heads = say(build(), [[1.0]], [logits], [mask])
    with EventStorage():
        _, losses = heads(None, features(), [make_proposals(OBJECT)], [make_targets(OBJECT, classes=[1])])
    assert losses["loss_cls"] < 1e-6 and losses["loss_iou"] < 1e-6
    assert losses["loss_mask"] < 50 * 28 / 64 + 1e-6  # at most the border cells


def predict(heads, proposals, logits, ious):
    say(heads.eval(), [ious], [logits], [torch.full((len(logits), 8, 8), 50.0)])  # masks of no doubt
    return heads(None, features(len(proposals)), proposals)[0]


def test_score_mixes_iou_and_class_probability():
    heads = build(alpha=0.25)
    big = 100.0
    (result,) = predict(heads, [make_proposals(OBJECT)], [[0.0, 0.0, -big, -big]], [0.8])
    assert result.pred_classes.tolist() == [0, 1]  # a doubtful object is of both classes
    assert result.scores.tolist() == pytest.approx([0.25 * 0.8 + 0.75 * 0.5] * 2)


@pytest.mark.parametrize("source, score", [("head", 0.8 * 0.9), ("label_map", 0.9)])
def test_scores_know_how_sure_the_mask_is_that_is_drawn(source, score):
    heads, mask = build(mask_source=source, score_threshold=0.71), torch.full((1, 8, 8), -50.0)
    mask[0, 2:6, 2:6] = math.log(4)  # a probability of 0.8
    say(heads.eval(), [[0.8]], [[[50.0, 0, 0, 0]]], [mask])
    ((result,), _) = heads(None, features(), [make_proposals(OBJECT)])
    assert result.scores.tolist() == [pytest.approx(score)]
    heads.score_threshold = 0.73
    say(heads, [[0.8]], [[[50.0, 0, 0, 0]]], [mask])
    ((result,), _) = heads(None, features(), [make_proposals(OBJECT)])
    assert len(result) == (source == "label_map")


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


@pytest.mark.parametrize("source", ["label_map", "head"])
def test_masks_come_out_at_the_output_size_in_place(source, monkeypatch):
    heads = build(mask_source=source)
    (result,) = predict(heads, [make_proposals(OBJECT)], [[9.0, 0, 0, 0]], [0.9])
    # the box of 12 px grows by 20 %: in the middle 10 of 12 cells the head sees the object
    result.mask_probs = torch.zeros(1, 12, 12)
    result.mask_probs[:, 1:-1, 1:-1] = 1
    output = heads.postprocess(result, 64, 64)  # the image was 32 x 32
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[8:32, 8:32] = True
    monkeypatch.setattr(roi_heads, "MAX_WHOLE_MASKS", 64 * 64 - 1)
    large = heads.postprocess(result, 64, 64)
    assert (large.pred_masks.numpy() == output.pred_masks.numpy()).all()
    assert torch.equal(large.pred_boxes.tensor, output.pred_boxes.tensor)
    difference = (output.pred_masks[0] ^ expected).float().mean()
    assert difference < 0.03
    assert output.pred_boxes.tensor[0].tolist() == pytest.approx([8, 8, 32, 32], abs=1.5)


def test_a_batch_in_which_one_image_has_no_proposal_trains_on_the_others():
    heads = build()
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


def test_matrix_suppression_reaches_the_detections():
    proposals = make_proposals(OBJECT, OBJECT)
    heads = build(nms="matrix", score_threshold=0.05)
    big = 100.0
    (result,) = predict(heads, [proposals], [[0.0, -big, -big, 0.0], [big, 0, 0, 0]], [0.5, 0.64])
    # (0.64 + 1) / 2, and (0.5 + 0.5) / 2 lowered by a whole duplicate
    assert result.scores.tolist() == pytest.approx([0.82, 0.5 * 2.718281828**-2])
    assert len(result.soft_masks) == 2


def test_detections_of_one_proposal_share_a_mask_that_is_drawn_once():
    proposals = make_proposals(OBJECT, (2, 4, 2, 4), (10, 14, 10, 14))
    big = 100.0
    logits = [[-big, -big, -big, big], [big, 0, 0, 0], [-big, 0.0, 0.1, -big]]  # background, class 0, class 1 or 2
    masks = torch.tensor([0.5, 1.0])[:, None, None].expand(-1, 8, 8)  # of the second and of the third proposal
    heads = say(build().eval(), [[0.001, 0.1, 0.9]], [logits], [masks])
    ((result,), _) = heads(None, features(), [proposals])
    assert result.pred_classes.tolist() == [2, 1, 0]
    assert heads.mask_head.layers.heard == [2]
    assert torch.equal(result.mask_probs[:, 0, 0], torch.tensor([1.0, 1.0, 0.5]).sigmoid())
    assert torch.equal(result.soft_masks, proposals.soft_masks[[2, 2, 1]])


def test_the_iou_head_learns_the_proposals_iou():
    """Of one foreground proposal that is the upper half of its object, and one that touches nothing."""
    heads = say(build(), [[0.4, 0.4]])
    proposals, targets = make_proposals((2, 5, 2, 8), (10, 14, 10, 14)), make_targets(OBJECT, classes=[1])
    with EventStorage():
        (sampled,), losses = heads(None, features(), [proposals], [targets])
    assert sampled.gt_iou.tolist() == [0.5, 0.0]
    expected = torch.nn.functional.huber_loss(torch.full((2,), 0.4), sampled.gt_iou, reduction="sum", delta=0.1) / 0.2
    torch.testing.assert_close(losses["loss_iou"], expected)


def test_mask_targets_are_the_objects_inside_the_grown_boxes():
    """A head that draws its object costs almost nothing; one that draws the other object of the image costs much."""
    proposals = make_proposals((2, 8, 2, 7), (10, 15, 9, 15))
    targets = make_targets((2, 8, 2, 7), (10, 15, 9, 15), classes=[0, 1])
    inside = torch.full((2, 8, 8), -9.0)
    inside[:, 1:-1, 1:-1] = 9.0
    costs = []
    for masks in (inside, -inside):
        with EventStorage():
            _, losses = say(build(), [[0.5, 0.5]], masks=[masks])(None, features(), [proposals], [targets])
        costs.append(losses["loss_mask"])
    assert costs[0] < 9 * 28 / 64 < costs[1]
